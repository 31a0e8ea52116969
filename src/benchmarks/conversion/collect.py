"""One benchmark: download or find its files, convert, save as a data set with its metadata beside it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.benchmarks.airbench import MOST_SECONDS, RATE
from src.benchmarks.conversion.pinned import SplitFiles
from src.benchmarks.files import metadata_file, read_rows
from src.benchmarks.spec import COMMON_COLUMNS, Benchmark
from src.collection.clips import find_below, rewrite_clip
from src.collection.download import fetch
from src.collection.retry import Patience
from src.collection.unpack import is_archive, unpack
from src.common.errors import UserError
from src.common.existing import next_step, read_record, set_problem
from src.common.folders import swap_in
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
    """A converted split: kept metadata, common columns with full paths of the clips, and what was left out."""

    metadata: Rows
    rows: Rows
    left_out: Counter[str]


def collect(job: Collection) -> dict[str, int]:
    """Convert the splits of ``job.files`` and save them; returns the rows of each.

    A set that has them is left alone, whoever made it, unless ``overwrite``; splits that it lacks are added if this
    program made it. Raises :class:`UserError` when files are missing or unreadable, and for an incomplete set of
    another program.
    """
    problems = {name: _problem(job.target, name) for name in job.files}
    problem = next((found for found in problems.values() if found), None)
    step = next_step(f"benchmark {job.spec.name}", job.target, problem, overwrite=job.overwrite)
    if step == "skip":
        return {}
    wanted = [name for name, found in problems.items() if found or step == "write"]
    splits = {name: _convert(job, name, job.files[name]) for name in wanted}
    _save(job, splits)
    counts = {name: len(split.rows) for name, split in splits.items()}
    for name, count in counts.items():
        expected = (job.spec.expected_rows or {}).get(name)
        if expected is not None and count != expected:
            log.warning("%s (%s): %d rows, the published set has %d", job.spec.name, name, count, expected)
    return counts


def _problem(target: Path, split: str) -> str | None:
    """Why the saved set does not have the split with its metadata; None if it does."""
    found = set_problem(target, COMMON_COLUMNS, {split: np.array([], np.int64)})
    return found or (None if metadata_file(target, split).is_file() else f"no {metadata_file(target, split).name}")


def _convert(job: Collection, name: str, files: SplitFiles) -> Split:
    metadata_path, roots = _find(job, files)
    where = f"{job.spec.name} ({name})"
    left_out: Counter[str] = Counter()
    raw: Rows = []
    rows: Rows = []
    for number, row in enumerate(_read(metadata_path)):
        reason = job.spec.left_out(row)
        if reason is not None:
            left_out[reason] += 1
            continue
        try:
            rows.append(job.spec.convert(row, len(rows)))
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: row {number} of {metadata_path} has no usable {error}") from error
        raw.append(row)
    raw, rows = _with_clips(job, where, raw, rows, roots, left_out)
    for reason, count in (+left_out).items():
        log.warning("%s: %d row(s) left out: %s", where, count, reason)
    return Split([dict(job.spec.keep(row)) for row in raw], rows, +left_out)


def _read(path: Path) -> Rows:
    if path.suffix == ".parquet":
        from datasets import Dataset

        rows: Rows = Dataset.from_parquet(str(path)).to_list()
        return rows
    found = read_rows(path)
    if found.broken:
        shown = ", ".join(map(str, found.broken[:_SHOWN]))
        raise UserError(f"{path}: line(s) {shown} cannot be read; fetch it again")
    return found.rows


def _find(job: Collection, files: SplitFiles) -> tuple[Path, list[Path]]:
    """Metadata file, and the folders below which the clips lie; archives are unpacked on the way.

    Metadata has a folder of its own: audio at another revision may bring another edition of the same file.
    """
    if job.from_dir is not None:
        roots = [job.from_dir]
        for archive in (job.from_dir / part.name for part in files.audio):
            if archive.is_file() and is_archive(archive):
                roots.append(unpack(archive, job.downloads / "unpacked"))
        return _given_metadata(job.from_dir, files.metadata.name), roots
    metadata = replace(files.metadata, checksum=None) if job.any_edition else files.metadata
    path = fetch(metadata, job.downloads / "metadata", job.patience)
    for source in files.audio:
        audio = fetch(source, job.downloads, job.patience)
        if audio.is_file() and is_archive(audio):
            unpack(audio, job.downloads)
    return path, [job.downloads]


def _given_metadata(folder: Path, name: str) -> Path:
    names = {name, f"{Path(name).stem}.jsonl", f"{Path(name).stem}.json"}
    found = sorted(path for path in folder.rglob("*") if path.name in names and path.is_file())
    if not found:
        raise UserError(f"{folder} holds no {name}; put the benchmark's metadata there under its own name")
    if len(found) > 1:
        raise UserError(f"{folder} holds several editions of {name}: {', '.join(map(str, found))}; leave one")
    return found[0]


def _with_clips(
    job: Collection, where: str, raw: Rows, rows: Rows, roots: Sequence[Path], left_out: Counter[str]
) -> tuple[Rows, Rows]:
    """Rows whose clip is there, with its path; the others are refused, or left out if that is allowed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = list(pool.map(lambda row, made: _clip(job, row, made, roots), raw, rows))
    problems = [f"{row['id']}: {clip}" for row, clip in zip(rows, clips, strict=True) if isinstance(clip, UserError)]
    if problems and (not job.allow_missing or len(problems) == len(rows)):
        shown = "; ".join(problems[:_SHOWN]) + ("; …" if len(problems) > _SHOWN else "")
        raise UserError(
            f"{where}: {len(problems)} of {len(rows)} clips cannot be used: {shown}. Complete the download, or give "
            "--allow-missing to leave those rows out"
        )
    for problem in problems:
        log.warning("%s: %s; left out", where, problem)
    left_out["no usable clip"] += len(problems)
    kept = [place for place, clip in enumerate(clips) if isinstance(clip, Path)]
    made = [{**rows[place], "audio": str(clips[place]), "dataset_index": number} for number, place in enumerate(kept)]
    return [raw[place] for place in kept], made


def _clip(job: Collection, raw: dict[str, Any], row: dict[str, Any], roots: Sequence[Path]) -> Path | UserError:
    """The row's clip on disk, rewritten first where the benchmark asks for it; the error if it cannot be used."""
    try:
        if job.spec.source_path is None:
            return find_below(roots, row["audio"])
        source = find_below(roots, job.spec.source_path(raw))
        rewrite_clip(source, job.downloads / row["audio"], RATE, MOST_SECONDS)
        return job.downloads / str(row["audio"])
    except UserError as error:
        return error


def _save(job: Collection, splits: dict[str, Split]) -> None:
    """Save next to the target first, then move: a kill leaves the old set or the new one.

    Other splits of a set of this program are kept.
    """
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
    record = read_record(job.target)
    kept = [name for name in record.get("splits", {}) if name not in splits and not _problem(job.target, name)]
    for name in kept:
        made[name] = Dataset.load_from_disk(str(job.target / name))
    fresh = job.target.with_name(f".{job.target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    made.save_to_disk(str(fresh))
    for name, split in splits.items():
        write_json(metadata_file(fresh, name), split.metadata)
    for name in kept:
        shutil.copy2(metadata_file(job.target, name), metadata_file(fresh, name))
    counts = {name: {"rows": len(split.rows), "left_out": dict(split.left_out)} for name, split in splits.items()}
    write_run_record(
        fresh,
        {"benchmark": job.spec.name, "from_dir": str(job.from_dir) if job.from_dir else None},
        sources={name: record["sources"][name] for name in kept} | {name: repr(job.files[name]) for name in splits},
        splits={name: record["splits"][name] for name in kept} | counts,
    )
    swap_in(fresh, job.target)


def _cell(value: Any, key: str) -> Any:
    """MMAU and MMAR answers are kept as they are; a column has one type, so a number becomes text here."""
    return str(value) if key in ("answer", "id", "question") and value is not None else value


def chosen_splits(files: dict[str, SplitFiles], names: Sequence[str]) -> dict[str, SplitFiles]:
    """The files of the named splits, all without names. Raises :class:`UserError` for an unknown one."""
    unknown = [name for name in names if name not in files]
    if unknown:
        raise UserError(f"--splits: unknown {', '.join(unknown)}; known: {', '.join(files)}")
    return {name: files[name] for name in names} if names else dict(files)
