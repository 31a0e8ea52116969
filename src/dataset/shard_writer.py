"""Writes the rows of a set on this machine as a shard set, and the index of shards that others have written."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.decode import cell_source
from src.audio.waveform import AudioError, load_waveform
from src.common.errors import UserError
from src.common.existing import next_step
from src.common.files import json_line, read_json_lines
from src.common.lock import empty_folder, locked_folders, may_discard
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import raw_dir
from src.dataset.given_rows import TEXT_MODE, GivenRows
from src.dataset.remote_files import FileCache, is_local, local_copy, sha256_of
from src.dataset.response_rows import CONTEXT_MODES, ResponseRow, ResponseRows
from src.dataset.shard_index import INDEX_FILE, NO_TARGET, ShardIndex, TarShard, write_index
from src.dataset.shard_rows import target_of
from src.dataset.shard_set import TEXTS, BrokenRowError, ShardRow, ShardSet
from src.dataset.tables import open_split

log = get_logger(__name__)
PROGRESS = "progress.jsonl"
_MODES = (*CONTEXT_MODES, TEXT_MODE)
_SIGNS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}
"""First bytes of a clip without a file name -> suffix. FF FB begins a frame of an MP3 file without an ID3 tag."""
_Parts = Mapping[str, ResponseRows | GivenRows]
"""Rows of a set by mode; a row of the shards has the targets of all modes."""


@dataclass(frozen=True)
class ShardSettings:
    """How a set is cut into shards: size of a shard in megabytes, and the seed of the order of its rows.

    ``modes`` are the kinds of targets (``WithContext``, ``NoContext``, ``Text``); None: all that the set has.
    ``prompt`` is the user's text of rows with given answers that have none of their own.
    """

    split: str = "train"
    modes: tuple[str, ...] | None = None
    shard_mb: float = 256.0
    seed: int = 0
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.shard_mb <= 0:
            raise UserError(f"--shard-mb is {self.shard_mb}, expected more than 0")
        for mode in self.modes or ():
            if mode not in _MODES:
                raise UserError(f"--modes: unknown {mode}; known: {', '.join(_MODES)}")


def write_shards(name: str, folder: Path, settings: ShardSettings, overwrite: bool = False) -> bool:
    """Write a response set (or a raw set with texts) as shards into ``folder``; false if they are there already.

    The rows are shuffled over the whole set, so that every shard is a random part of it. A run that was killed
    continues after its last finished shard. A clip is stored once for all of a row's targets, byte by byte.
    Raises :class:`UserError` for a set that cannot be opened, and for shards of other settings.
    """
    parts = _open_parts(name, settings)
    # sorted, so that the order depends on which rows there are only
    keys = np.unique(np.concatenate([part.keys for part in parts.values()]))
    order = np.random.default_rng(settings.seed).permutation(keys)
    made = {"set": name, **asdict(settings), "modes": list(parts), "keys": hashlib.sha256(keys.tobytes()).hexdigest()}
    with locked_folders([folder]) as changed:
        if may_discard(overwrite, changed, folder):
            empty_folder(folder)
        done = _finished(name, folder, made)
        if done is None:
            return False
        written = sum(len(part["seconds"]) for part in done)
        rows = _rows(order[written:], parts)
        while written < order.size:
            done.append(_write_tar(rows, folder / f"{len(done):05d}.tar", settings.shard_mb * 1e6))
            with (folder / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(json_line(done[-1]))
            written += done[-1]["shard"]["rows"]
            log.info("%s: shard %d, %d rows so far of %d", name, len(done) - 1, written, order.size)
        about = {"seed": settings.seed, "source": made}
        _write_index(folder, name, settings.split, done, list(parts), about)
    return True


def _open_parts(name: str, settings: ShardSettings) -> _Parts:
    if settings.modes == (TEXT_MODE,) or (settings.modes is None and raw_dir(name).is_dir()):
        columns = open_split(raw_dir(name), "train", f"raw set {name}").column_names
        prompt = settings.prompt if settings.prompt is not None or "prompt" in columns else ""
        return {TEXT_MODE: GivenRows(name, split=settings.split, prompt=prompt)}
    ResponseName.parse(name)
    parts: dict[str, ResponseRows | GivenRows] = {}
    problem: UserError | None = None
    for mode in settings.modes or CONTEXT_MODES:
        try:
            parts[mode] = ResponseRows(name, mode, split=settings.split)
        except UserError as error:
            if settings.modes is not None:
                raise
            problem = problem or error
    if not parts and problem is not None:
        raise problem
    return parts


def _finished(name: str, folder: Path, made: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Shards of an interrupted run with the same settings; None if all are written."""
    lines = list(read_json_lines(folder / PROGRESS, skip_broken=True))
    ours = bool(lines) and lines[0] == made
    complete = (folder / INDEX_FILE).is_file()
    if complete or lines:
        other = None if complete and ours else "other settings or another set made it"
        if next_step(f"shards of {name}", folder, None if complete and ours else other, ours=ours) == "skip":
            return None
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).write_text(json_line(made), encoding="utf-8")
    kept = []
    for line in lines[1:]:
        path = folder / line["shard"]["file"]
        if not path.is_file() or path.stat().st_size != line["shard"]["size"]:
            break
        kept.append(line)
    # rewritten: a line of a killed process may be cut
    (folder / PROGRESS).write_text("".join(map(json_line, [dict(made), *kept])), encoding="utf-8")
    return kept


def _rows(keys: np.ndarray, parts: _Parts) -> Iterator[tuple[int, dict[str, ResponseRow], float | None]]:
    """Of every key in order: the key, the row of each mode, and the stated length of its clip in seconds."""
    places = {mode: dict(zip(part.keys.tolist(), range(len(part)), strict=True)) for mode, part in parts.items()}
    lengths = {mode: part.seconds() for mode, part in parts.items()}
    for key in keys.tolist():
        found = {mode: part[places[mode][key]] for mode, part in parts.items() if key in places[mode]}
        mode = next(iter(found))
        seconds = lengths[mode]
        yield key, found, None if seconds is None else float(seconds[places[mode][key]])


def _write_tar(
    rows: Iterator[tuple[int, dict[str, ResponseRow], float | None]], path: Path, most_bytes: float
) -> dict[str, Any]:
    """Write the next rows until a shard has ``most_bytes``; returns what the index needs to know of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    columns: dict[str, list[Any]] = {}
    # USTAR: one header per file, which every reader knows; the names are short and need no extended ones
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        while archive.offset < most_bytes and (entry := next(rows, None)) is not None:
            for key, value in _add_row(archive, *entry).items():
                columns.setdefault(key, []).append(value)
    shard = TarShard(path.name, len(columns["seconds"]), temporary.stat().st_size, sha256_of(temporary))
    temporary.replace(path)
    return {"shard": asdict(shard), **columns}


def _add_row(
    archive: tarfile.TarFile, number: int, rows: Mapping[str, ResponseRow], seconds: float | None
) -> dict[str, Any]:
    """Append one row; returns its columns of the index. A clip that is missing is left to the training to report."""
    row = next(iter(rows.values()))
    content, suffix = b"", ".audio"
    with suppress(AudioError):
        source, name = cell_source(row.audio or {}, fallback=row.key)
        if isinstance(source, bytes):
            content = source
        elif source.is_file():
            content = source.read_bytes()
        suffix = Path(name).suffix.lower() or next(
            (suffix for sign, suffix in _SIGNS.items() if content.startswith(sign)), ".audio"
        )
    if seconds is None or not np.isfinite(seconds):
        seconds = _decoded_seconds(content)
    targets = {
        mode: {"context": each.context, "target": each.target, "system": each.system, "cut": each.cut}
        for mode, each in rows.items()
    }
    texts = {
        "key": row.key,
        "audio_description": row.audio_description,
        "spoken_question": row.spoken_question,
        "seconds": round(seconds, 3),
        "targets": targets,
    }
    stem = f"{number:09d}"
    for name, data in ((stem + TEXTS, json.dumps(texts, ensure_ascii=False).encode()), (stem + suffix, content)):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    # An empty target counts as none: a row is then left out instead of being replaced in every epoch.
    sizes = {mode: len(each.target.encode()) or NO_TARGET for mode, each in rows.items()}
    columns = {"seconds": seconds, "described": bool(row.audio_description), **dict.fromkeys(_MODES, NO_TARGET)}
    return columns | sizes


def _decoded_seconds(content: bytes) -> float:
    try:
        return load_waveform(content).duration
    except AudioError:
        return 0.0  # reported and replaced when it is trained on


def _write_index(
    folder: Path,
    name: str,
    split: str,
    done: Sequence[Mapping[str, Any]],
    modes: Sequence[str],
    about: dict[str, Any],
) -> None:
    columns = {key: [value for part in done for value in part[key]] for key in ("seconds", "described", *modes)}
    kept = {key: values for key, values in columns.items() if key not in modes or set(values) != {NO_TARGET}}
    write_index(folder, name, split, [TarShard(**part["shard"]) for part in done], kept, about)


def index_shards(addresses: Sequence[str], folder: Path, split: str = "train") -> dict[str, int]:
    """Write into ``folder`` the index of tar shards in the WebDataset layout that exist already.

    Every shard is read once. A row has its text in ``.txt``, or in ``.json`` as ``text`` (with ``prompt``,
    ``system``, ``audio_description``, ``duration``), or ``targets`` as :func:`write_shards` stores them. Clips are
    decoded where no duration is given. Returns the number of rows by what is wrong with them: the training replaces
    them. Raises :class:`UserError` for a shard that cannot be read.
    """
    problems: Counter[str] = Counter()
    done = []
    temporary = folder / ".shards"
    folder.mkdir(parents=True, exist_ok=True)
    for address in addresses:
        path = local_copy(address, temporary)
        shard = TarShard(
            str(path.resolve()) if is_local(address) else address, 0, path.stat().st_size, sha256_of(path)
        )
        # An index of this one shard, without rows: ShardSet reads the rows from the file alone.
        here = (replace(shard, file=str(path.resolve())),)
        none: Any = np.zeros(0)
        stored = ShardSet(ShardIndex(str(folder), "", split, here, none, none, {}), FileCache(temporary, 1))
        rows = [_indexed(stored, place, problems) for place in range(stored.rows_of(0))]
        columns = {key: [row[key] for row in rows] for key in ("seconds", "described", *_MODES)}
        done.append({"shard": asdict(replace(shard, rows=len(rows))), **columns})
        log.info("%s: %d rows", address, len(rows))
        if not is_local(address):
            path.unlink()
    shutil.rmtree(temporary, ignore_errors=True)
    if all(size == NO_TARGET for part in done for mode in _MODES for size in part[mode]):
        raise UserError(
            f"{addresses[0]} and the others: no row has a text; expected .txt, or 'text' in .json, next to each clip"
        )
    _write_index(folder, folder.name, split, done, _MODES, {"source": {"shards": list(addresses)}})
    return dict(problems)


def _indexed(stored: ShardSet, place: int, problems: Counter[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {"seconds": 0.0, "described": False, **dict.fromkeys(_MODES, NO_TARGET)}
    try:
        row = stored.row(0, place)
    except BrokenRowError as error:
        log.warning("%s", error)
        problems["texts cannot be read"] += 1
        return columns
    for mode in _MODES:
        with suppress(KeyError, TypeError):
            columns[mode] = len(str(target_of(row.texts, mode)["target"] or "").encode()) or NO_TARGET
    columns["described"] = bool(row.texts.get("audio_description"))
    columns["seconds"] = _seconds(row, problems)
    return columns


def _seconds(row: ShardRow, problems: Counter[str]) -> float:
    for key in ("seconds", "duration"):
        with suppress(KeyError, TypeError, ValueError):
            if math.isfinite(stated := float(row.texts[key])):  # Python's json reads and writes NaN
                return stated
    if row.clip is None:
        problems["no clip"] += 1
        return 0.0
    found = _decoded_seconds(row.clip)
    if not found:
        problems["undecodable clip"] += 1
    return found


def expand_numbers(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; a pattern without braces is itself."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    width = len(found[1])
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [
        each
        for number in numbers
        for each in expand_numbers(pattern[: found.start()] + f"{number:0{width}d}" + pattern[found.end() :])
    ]
