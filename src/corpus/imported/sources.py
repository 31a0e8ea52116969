"""Reads the rows of a source: a folder of clips, CSV/TSV, JSON lines or a JSON list, a lhotse CutSet.

Every wrong row keeps its place (``line 17``) and its problem; only a source that cannot be read at all is an error.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.corpus.imported.row import KNOWN, Columns, RowError, SourceRow, read_record
from src.corpus.rows.make import reason_of
from src.corpus.rows.tables import lines

_log = get_logger(__name__)
AUDIO = frozenset(
    {
        ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".aifc", ".au",
        ".sph", ".amr", ".gsm", ".caf", ".webm", ".mp4", ".mka",
    }
)  # fmt: skip
"""Ends of file names that count as clips in a folder; a table may name any file."""
TABLES = tuple(f"{stem}{end}" for stem in ("metadata", "transcripts") for end in (".jsonl", ".csv", ".tsv", ".json"))
"""Files of a folder that list its clips."""
_SAVED = ("dataset_dict.json", "state.json", "*.parquet", "data/*.parquet")
Opened = tuple[Callable[[], Iterator[SourceRow]], str]
"""Reader of a source's rows, and a fingerprint of what it reads."""


def is_rows_source(source: str) -> bool:
    """Whether ``source`` is a saved data set, a folder of parquet files or a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return any(next(path.glob(pattern), None) for pattern in _SAVED)
    return not path.exists() and source.count("/") == 1 and not source.startswith((".", "/", "~"))


def open_source(source: str, columns: Columns) -> Opened:
    """Reader and fingerprint of a file or folder. Raises :class:`UserError` if it is neither, or of no known kind."""
    path = Path(source).expanduser()
    if path.is_dir():
        listed = next((path / name for name in TABLES if (path / name).is_file()), None)
        if listed is None:
            return lambda: _folder(path), fingerprint(_files(path))
        _log.info("%s: the clips are those of %s", path, listed.name)
        path = listed
    if not path.is_file():
        raise UserError(
            f"{source}: no such file or folder; expected clips, CSV, TSV, JSON lines, a lhotse CutSet, or a Hub id "
            "OWNER/NAME"
        )
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return lambda: _table(path, columns), fingerprint([path], content=True)
    if name.endswith((".jsonl", ".json", ".ndjson")):
        return lambda: _json(path, columns), fingerprint([path], content=True)
    raise UserError(f"{source}: got a file of another kind, expected .csv, .tsv, .jsonl, .json or .jsonl.gz")


def fingerprint(files: Iterable[Path], content: bool = False) -> str:
    """Digest of names, sizes and times of files, or of the content of a list of clips."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        status = file.stat()
        digest.update(file.read_bytes() if content else f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _attempt(where: str, read: Callable[..., SourceRow], *arguments: Any) -> SourceRow:
    """The row that ``read`` makes of its arguments, or one that says why there is none."""
    try:
        return read(*arguments)
    except Exception as error:  # also what a record of another form leads to, such as a cut without a duration
        reason = str(error) if isinstance(error, RowError) else f"not a row: {reason_of(error)}"
        return SourceRow(where, problem=reason)


# ---- tables and JSON


def _table(path: Path, columns: Columns) -> Iterator[SourceRow]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix == ".tsv" else max(",;\t|", key=first.count)
        if delimiter == "|" and not {name.strip() for name in first.split("|")} & {*KNOWN["audio"]}:
            # LJ Speech: NAME|TEXT|NORMALISED TEXT without a header; the clips are in a folder next to the list
            clips = {clip.stem: clip for clip in _files(path.parent)}
            for number, line in enumerate(file, 1):
                name, *texts = line.rstrip("\r\n").split("|")
                if line.strip():
                    clip = clips.get(Path(name).stem, path.parent / name)
                    yield SourceRow(f"line {number}", str(clip), text=texts[-1].strip() if texts else "", name=name)
            return
        reader = csv.DictReader(file, delimiter=delimiter, restval="")
        columns.check(reader.fieldnames or (), str(path))
        try:
            for record in reader:
                where = f"line {reader.line_num}"
                yield _attempt(where, read_record, record, columns, where, str(path.parent))
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; is a quotation mark missing?") from error


def _json(path: Path, columns: Columns) -> Iterator[SourceRow]:
    folder = str(path.parent)
    for where, record in _records(path):
        if isinstance(record, RowError):
            yield SourceRow(where, problem=str(record))
        elif isinstance(record, dict) and str(record.get("type")).endswith("Cut"):
            yield _attempt(where, _cut, record, where, folder)
        else:
            yield _attempt(where, read_record, record, columns, where, folder)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of every record; :class:`RowError` in place of a line that is not JSON."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            first = file.read(1)
            file.seek(0)
            if first == b"[":
                yield from ((f"record {number}", each) for number, each in enumerate(json.load(file), 1))
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield f"line {number}", json.loads(line)
                    except ValueError as error:
                        yield f"line {number}", RowError(f"not JSON: {error}")
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); is the file complete?") from error


# ---- lhotse


def _cut(cut: dict[str, Any], where: str, folder: str) -> SourceRow:
    """A cut of one recording: https://lhotse.readthedocs.io/en/latest/cuts.html. Its supervisions are the text."""
    kind = cut["type"]
    sources = (cut.get("recording") or {}).get("sources") or []
    if kind not in ("MonoCut", "MultiCut") or len(sources) != 1 or sources[0].get("type") != "file":
        held = ", ".join(str(source.get("type")) for source in sources) or "no recording"
        raise RowError(f"not a file: a {kind} of {held}; expected a MonoCut or MultiCut of one file")
    spoken = cut.get("supervisions") or []
    recording, start = cut["recording"], float(cut.get("start", 0.0))
    seconds, length = float(cut["duration"]), float(recording.get("duration", 0.0))
    whole = start == 0.0 and abs(seconds - length) < 1e-3
    several = kind == "MonoCut" and len(sources[0].get("channels") or [0]) > 1
    custom = cut.get("custom") or {}
    return SourceRow(
        where,
        os.path.normpath(os.path.join(folder, sources[0]["source"])),
        text=" ".join(each["text"].strip() for each in spoken if each.get("text")),
        prompt=str(custom.get("prompt") or ""),
        group=str(spoken[0].get("speaker") or "") if spoken else "",
        name=str(cut.get("id", "")),
        start=start,
        seconds=None if whole and not several else seconds,
        channel=int(cut.get("channel", 0)) if several else None,
    )


# ---- folders


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in AUDIO and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _folder(folder: Path) -> Iterator[SourceRow]:
    """Clips of a folder and of those in it, with ``.txt``, ``.lab`` or ``.json`` next to them, or a list of texts."""
    texts: dict[Path, dict[str, str]] = {}
    for file in _files(folder):
        where = str(file.relative_to(folder))
        if file.parent not in texts:
            texts[file.parent] = _transcripts(file.parent)
        sidecar = next((side for end in (".json", ".txt", ".lab") if (side := file.with_suffix(end)).is_file()), None)
        if sidecar is None:
            yield SourceRow(where, str(file), text=texts[file.parent].get(file.stem, ""), name=where)
        elif sidecar.suffix == ".json":
            yield _attempt(where, _from_sidecar, sidecar, file, where)
        else:
            yield SourceRow(
                where, str(file), text="\n".join(lines(sidecar, encoding="utf-8-sig")).strip(), name=where
            )


def _from_sidecar(sidecar: Path, file: Path, where: str) -> SourceRow:
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RowError(f"not JSON: {sidecar.name} ({error})") from error
    if not isinstance(record, dict):
        raise RowError(f"not a row: {sidecar.name} has a {type(record).__name__}, expected an object")
    own = {name: value for name, value in record.items() if name not in KNOWN["audio"]}
    return read_record({"id": where, **own, "audio": str(file)}, Columns(), where, str(file.parent))


def _transcripts(folder: Path) -> dict[str, str]:
    """Texts by clip from ``transcripts.txt``, Kaldi's ``text`` and LibriSpeech's ``*.trans.txt`` of a folder."""
    found: dict[str, str] = {}
    for path in (folder / "transcripts.txt", folder / "text", *sorted(folder.glob("*.trans.txt"))):
        for line in lines(path, encoding="utf-8-sig") if path.is_file() else ():
            name, _, text = line.replace("|", "\t", 1).replace("\t", " ", 1).partition(" ")
            found[Path(name).stem if Path(name).suffix.lower() in AUDIO else name] = text.strip()
    return found
