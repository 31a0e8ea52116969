"""One benchmark: download or find its files, convert, save as a data set with its metadata beside it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.benchmarks import mmaupro
from src.benchmarks.airbench import source_path
from src.benchmarks.files import read_rows
from src.benchmarks.spec import Benchmark
from src.collection.clips import rewrite_clip
from src.collection.download import Patience, fetch
from src.collection.sources import SplitFiles
from src.collection.unpack import ENDINGS, unpack
from src.common.errors import UserError
from src.common.log import get_logger
from src.common.run_record import write_json, write_run_record

log = get_logger(__name__)
Rows = list[dict[str, Any]]
_SHOWN = 5


@dataclass(frozen=True)
class Collection:
    """What to collect, and how. ``from_dir`` has the files already; ``downloads`` is where they go otherwise."""

    spec: Benchmark
    files: dict[str, SplitFiles]
    target: Path
    downloads: Path
    from_dir: Path | None = None
    allow_missing: bool = False
    any_edition: bool = False
    overwrite: bool = False
    patience: Patience = field(default_factory=Patience)


@dataclass
class Split:
    """A converted split: kept metadata, common columns, and full paths of the clips."""

    metadata: Rows
    rows: Rows
    left_out: Counter[str]


def collect(job: Collection) -> dict[str, int]:
    """Convert the splits of ``job.files`` and save them; returns the rows of each.

    A finished set is left alone unless ``overwrite``. Raises :class:`UserError` when files are missing or unreadable.
    """
    record = job.target / "run.json"
    if record.is_file() and not job.overwrite:
        log.info("%s is there already (--overwrite makes it again)", job.target)
        return {}
    splits = {name: _convert(job, name, files) for name, files in job.files.items()}
    _save(job, splits)
    counts = {name: len(split.rows) for name, split in splits.items()}
    for name, count in counts.items():
        expected = (job.spec.expected_rows or {}).get(name)
        if expected is not None and count != expected:
            log.warning("%s (%s): %d rows, the published set has %d", job.spec.name, name, count, expected)
    return counts


def _convert(job: Collection, name: str, files: SplitFiles) -> Split:
    metadata_path, root = _find(job, name, files)
    raw = _read(metadata_path)
    left_out: Counter[str] = Counter()
    if job.spec.name == mmaupro.BENCHMARK.name:
        reasons = [mmaupro.left_out(row) for row in raw]
        left_out.update(reason for reason in reasons if reason)
        raw = [row for row, reason in zip(raw, reasons, strict=True) if reason is None]
    raw, rows = _with_audio(job, name, raw, root, left_out)
    for reason, count in left_out.items():
        log.warning("%s (%s): %d row(s) left out: %s", job.spec.name, name, count, reason)
    return Split([dict(job.spec.keep(row)) for row in raw], rows, left_out)


def _read(path: Path) -> Rows:
    if path.suffix == ".parquet":
        from datasets import Dataset

        rows: Rows = Dataset.from_parquet(str(path)).to_list()
        return rows
    found = read_rows(path)
    if found.broken:
        raise UserError(
            f"{path}: line(s) {', '.join(map(str, found.broken[:_SHOWN]))} cannot be read; fetch it again"
        )
    return found.rows


def _find(job: Collection, name: str, files: SplitFiles) -> tuple[Path, Path]:
    """Metadata file and the folder below which the clips lie; archives are unpacked on the way."""
    if job.from_dir is not None:
        for archive in sorted(job.from_dir.glob("*")):
            if archive.name.endswith(ENDINGS) and any(archive.name == part.name for part in files.audio):
                unpack(archive, job.from_dir)
        return _given_metadata(job.from_dir, files.metadata.name), job.from_dir
    parts = [files.metadata, *files.audio]
    if job.any_edition:
        parts = [replace(part, blob=None) for part in parts]
    paths = [fetch(part, job.downloads, job.patience) for part in parts]
    for path in paths[1:]:
        if path.is_file():
            unpack(path, job.downloads)
    return paths[0], job.downloads


def _given_metadata(folder: Path, name: str) -> Path:
    stems = {name, f"{Path(name).stem}.jsonl", f"{Path(name).stem}.json"}
    found = sorted(path for path in folder.rglob("*") if path.name in stems and path.is_file())
    if not found:
        raise UserError(f"{folder} holds no {name}; put the benchmark's metadata there under its own name")
    return found[0]


def _with_audio(job: Collection, name: str, raw: Rows, root: Path, left_out: Counter[str]) -> tuple[Rows, Rows]:
    """Raw rows and converted rows whose clip is there; the others are refused, or left out if allowed."""
    kept, rows, problems = [], [], []
    for number, row in enumerate(raw):
        try:
            made = job.spec.convert(row, len(kept))
        except (KeyError, TypeError) as error:
            raise UserError(f"{job.spec.name} ({name}): row {number} has no usable {error}") from error
        try:
            made["audio"] = str(_clip(job, row, made["audio"], root))
        except UserError as error:
            problems.append(f"row {number} ({made['id']}): {error}")
            continue
        kept.append(row)
        rows.append(made)
    if problems and (not job.allow_missing or not rows):
        shown = "; ".join(problems[:_SHOWN]) + ("; …" if len(problems) > _SHOWN else "")
        raise UserError(
            f"{job.spec.name} ({name}): {len(problems)} of {len(raw)} clips cannot be used: {shown}. Complete the "
            "download, or give --allow-missing to leave those rows out"
        )
    for problem in problems:
        log.warning("%s", problem)
    left_out["no usable clip"] += len(problems)
    return kept, rows


def _clip(job: Collection, row: dict[str, Any], path: str, root: Path) -> Path:
    """The row's clip on disk; AIR-Bench's is rewritten first. Raises :class:`UserError` if it is not there."""
    if job.spec.name != "airbench":
        return _below(root, path)
    source = _below(root, source_path(row))
    target = job.downloads / path
    rewrite_clip(source, target)
    return target


def _below(root: Path, path: str) -> Path:
    """A path below the root or one of its folders (archives may bring a folder of their own)."""
    for folder in (root, *(child for child in sorted(root.iterdir()) if child.is_dir())):
        if (folder / path).is_file():
            return folder / path
    raise UserError(f"there is no {path} in {root}")


def _save(job: Collection, splits: dict[str, Split]) -> None:
    """Beside the target first, then moved: a kill leaves the old set or the new one."""
    from datasets import Audio, Dataset, DatasetDict, Features, List, Value

    features = Features(
        {
            "question": Value("string"),
            "choices": List(Value("string")),
            "answer": Value("string"),
            "audio": Value("string"),
            "id": Value("string"),
            "dataset_index": Value("int64"),
        }
    )
    made = DatasetDict()
    for name, split in splits.items():
        columns = {key: [_cell(row[key], key) for row in split.rows] for key in features}
        made[name] = Dataset.from_dict(columns, features).cast_column("audio", Audio(sampling_rate=16_000))
    fresh = job.target.with_name(f".{job.target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    made.save_to_disk(str(fresh))
    for name, split in splits.items():
        write_json(fresh / "metadata" / f"{name}_metadata.json", split.metadata)
    write_run_record(
        fresh,
        {"benchmark": job.spec.name, "from_dir": str(job.from_dir) if job.from_dir else None},
        sources={name: repr(files) for name, files in job.files.items()},
        splits={name: {"rows": len(split.rows), "left_out": dict(+split.left_out)} for name, split in splits.items()},
    )
    if job.target.is_dir():
        shutil.rmtree(job.target)
    fresh.replace(job.target)


def _cell(value: Any, key: str) -> Any:
    """MMAU and MMAR answers are kept as they are; a column has one type, so a number becomes text here."""
    return str(value) if key in ("answer", "id", "question") and value is not None else value


def chosen_splits(files: dict[str, SplitFiles], names: Sequence[str]) -> dict[str, SplitFiles]:
    """The files of the named splits, all without names. Raises :class:`UserError` for an unknown one."""
    unknown = [name for name in names if name not in files]
    if unknown:
        raise UserError(f"--splits: unknown {', '.join(unknown)}; known: {', '.join(files)}")
    return {name: files[name] for name in names} if names else dict(files)
