"""Benchmark collectors: download or find the files, convert them, save a data set with its metadata next to it."""

from __future__ import annotations

import argparse
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
from src.benchmarks.conversion.pinned import SplitFiles, sources
from src.benchmarks.registry import benchmark
from src.benchmarks.run_loader import JsonRows, metadata_file, read_rows
from src.benchmarks.scoring import COMMON_COLUMNS, Benchmark, first_few
from src.common.errors import UserError, check_host
from src.common.existing import next_step, read_record, set_problem
from src.common.files import swap_in, write_json
from src.common.lock import locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import data_root, raw_dir
from src.common.retry import RetryPolicy
from src.common.run_record import write_run_record
from src.download.clips import find_below, rewrite_clip
from src.download.download import fetch
from src.download.sources import WebFile
from src.download.unpack import is_archive, unpack

log = get_logger(__name__)


@dataclass(frozen=True)
class ConversionJob:
    """One benchmark's files and target; ``from_dir`` has the files already, ``downloads`` gets them otherwise.

    ``name`` is what the saved set records: a short name, or the import path of a benchmark of one's own.
    """

    name: str
    spec: Benchmark
    files: dict[str, SplitFiles]
    target: Path
    downloads: Path
    from_dir: Path | None = None
    allow_missing: bool = False
    any_edition: bool = False
    overwrite: bool = False
    policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass
class ConvertedSplit:
    """Kept metadata of the rows, common columns with full paths of the clips, and the reasons of rows left out."""

    metadata: JsonRows
    rows: JsonRows
    left_out: Counter[str]


def collector_parser(description: str | None, any_benchmark: bool = False) -> argparse.ArgumentParser:
    """The arguments of a known benchmark's collector; ``any_benchmark`` adds the name of the benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    if any_benchmark:
        add("name", metavar="NAME", help="name of the set, or import path of the benchmark")
    add("--from-dir", type=Path, help="folder that holds metadata and audio already: nothing is downloaded")
    add("--splits", nargs="*", default=[], help="only these splits")
    add("--downloads", type=Path, help="where downloads go (data/datasets/downloads/NAME)")
    add("--allow-missing", action="store_true", help="leave rows out whose clip is missing or unreadable")
    add("--any-edition", action="store_true", help="do not check the metadata's known checksum")
    add("--overwrite", action="store_true", help="convert again although the set is there")
    add("--attempts", type=int, default=RetryPolicy.attempts, help="tries at every file before giving up")
    add("--first-wait", type=float, default=RetryPolicy.first_wait, help="seconds before the second try")
    return parser


def collect_command(name: str, args: argparse.Namespace) -> str:
    """Collect the benchmark with parsed arguments; returns the line to print."""
    if args.from_dir is not None and not args.from_dir.is_dir():
        raise UserError(f"--from-dir {args.from_dir} is not a folder")
    spec, files = benchmark(name), sources().get(name)
    if files is None:
        if args.from_dir is None:
            raise UserError(f"benchmark {name}: no download is known; give the folder of its files with --from-dir")
        files = {split: SplitFiles(WebFile("", f"{split}.json"), ()) for split in args.splits or ["test"]}
    unknown = [split for split in args.splits if split not in files]
    if unknown:
        raise UserError(f"--splits: unknown {', '.join(unknown)}; known: {', '.join(files)}")
    job = ConversionJob(
        name,
        spec,
        {split: files[split] for split in args.splits or files},
        raw_dir(spec.name),
        args.downloads or data_root() / "downloads" / spec.name,
        args.from_dir,
        args.allow_missing,
        args.any_edition,
        args.overwrite,
        RetryPolicy(args.attempts, args.first_wait),
    )
    counts = collect(job)
    made = ", ".join(f"{split} {count} rows" for split, count in counts.items()) or "already there"
    return f"{job.target}: {made}"


def collect(job: ConversionJob) -> dict[str, int]:
    """Convert the splits of ``job.files`` and save them; returns the rows of each.

    A set that has them is left alone, whoever made it, unless ``overwrite``; splits that it lacks are added if this
    program made it. Raises :class:`UserError` when files are missing or unreadable, for an incomplete set of another
    program, and when another run writes the set.
    """
    with locked_folders([job.target]) as changed:
        return _collect(replace(job, overwrite=may_discard(job.overwrite, changed, job.target)))


def _collect(job: ConversionJob) -> dict[str, int]:
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


def _convert(job: ConversionJob, name: str, files: SplitFiles) -> ConvertedSplit:
    metadata_path, roots = _find(job, files)
    where = f"{job.spec.name} ({name})"
    left_out: Counter[str] = Counter()
    raw: JsonRows = []
    rows: JsonRows = []
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
    return ConvertedSplit([dict(job.spec.keep(row)) for row in raw], rows, +left_out)


def _read(path: Path) -> JsonRows:
    if path.suffix == ".parquet":
        from datasets import Dataset

        rows: JsonRows = Dataset.from_parquet(str(path)).to_list()
        return rows
    found = read_rows(path)
    if found.broken:
        raise UserError(f"{path}: line(s) {first_few(found.broken)} cannot be read; fetch it again")
    return found.rows


def _find(job: ConversionJob, files: SplitFiles) -> tuple[Path, list[Path]]:
    """Metadata file, and the folders below which the clips lie; archives are unpacked on the way."""
    if job.from_dir is not None:
        roots = [job.from_dir]
        for archive in (job.from_dir / part.name for part in files.audio):
            if archive.is_file() and is_archive(archive):
                roots.append(unpack(archive, job.downloads / "unpacked"))
        return _given_metadata(job.from_dir, files.metadata.name), roots
    metadata = replace(files.metadata, checksum=None) if job.any_edition else files.metadata
    # in a folder of its own: the audio's revision may bring another edition of the same file
    path = fetch(metadata, job.downloads / "metadata", job.policy)
    for source in files.audio:
        audio = fetch(source, job.downloads, job.policy)
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
    job: ConversionJob, where: str, raw: JsonRows, rows: JsonRows, roots: Sequence[Path], left_out: Counter[str]
) -> tuple[JsonRows, JsonRows]:
    """Rows whose clip is there, with its path; the others are refused, or left out if that is allowed."""
    # threads are enough: looking for files waits for the disk, and decoding releases Python's lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = list(pool.map(lambda row, made: _clip(job, row, made, roots), raw, rows))
    problems = [f"{row['id']}: {clip}" for row, clip in zip(rows, clips, strict=True) if isinstance(clip, UserError)]
    if problems and (not job.allow_missing or len(problems) == len(rows)):
        raise UserError(
            f"{where}: {len(problems)} of {len(rows)} clips cannot be used: {first_few(problems, '; ')}. Complete "
            "the download, or give --allow-missing to leave those rows out"
        )
    for problem in problems:
        log.warning("%s: %s; left out", where, problem)
    left_out["no usable clip"] += len(problems)
    kept = [place for place, clip in enumerate(clips) if isinstance(clip, Path)]
    made = [{**rows[place], "audio": str(clips[place]), "dataset_index": number} for number, place in enumerate(kept)]
    return [raw[place] for place in kept], made


def _clip(job: ConversionJob, raw: dict[str, Any], row: dict[str, Any], roots: Sequence[Path]) -> Path | UserError:
    """The row's clip on disk, rewritten first where the benchmark asks for it; the error if it cannot be used.

    Raises :class:`~src.common.errors.MachineError` if the disk is at fault and not the clip.
    """
    try:
        if job.spec.source_path is None:
            return find_below(roots, row["audio"])
        source = find_below(roots, job.spec.source_path(raw))
        rewrite_clip(source, job.downloads / row["audio"], RATE, MOST_SECONDS)
        return job.downloads / str(row["audio"])
    except UserError as error:
        check_host(error)
        return error


def _save(job: ConversionJob, splits: dict[str, ConvertedSplit]) -> None:
    """Save next to the target, then exchange both; other splits of a set of this program are kept."""
    # a DatasetDict is saved as a whole, and a killed process must leave the old one or the new one
    from datasets import Audio, Dataset, DatasetDict, Features, List, Value

    others = {"choices": List(Value("string")), "dataset_index": Value("int64")}
    features = Features({name: others.get(name, Value("string")) for name in COMMON_COLUMNS})
    made = DatasetDict()
    for name, split in splits.items():
        columns = {key: [row[key] for row in split.rows] for key in features}
        # MMAU and MMAR keep answers as they are, numbers among them; a column has one type
        for key in ("question", "answer", "id"):
            columns[key] = [None if cell is None else str(cell) for cell in columns[key]]
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
        {"benchmark": job.name, "from_dir": str(job.from_dir) if job.from_dir else None},
        sources={name: record["sources"][name] for name in kept} | {name: repr(job.files[name]) for name in splits},
        splits={name: record["splits"][name] for name in kept} | counts,
    )
    swap_in(fresh, job.target)
