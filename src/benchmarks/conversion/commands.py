"""Command lines of the collectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.benchmarks.conversion.collect import Collection, chosen_splits, collect
from src.benchmarks.conversion.pinned import sources
from src.benchmarks.registry import BENCHMARKS
from src.collection.retry import Patience
from src.common.errors import UserError
from src.common.paths import data_root, raw_dir


def collector_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of a known benchmark's collector."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from-dir", type=Path, help="folder that holds metadata and audio already: nothing is downloaded"
    )
    parser.add_argument("--splits", nargs="*", default=[], help="only these splits")
    parser.add_argument("--downloads", type=Path, help="where downloads go (data/datasets/downloads/NAME)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave rows out whose clip is missing or unreadable"
    )
    parser.add_argument("--any-edition", action="store_true", help="do not check the metadata's known checksum")
    parser.add_argument("--overwrite", action="store_true", help="convert again although the set is there")
    parser.add_argument(
        "--attempts", type=int, default=Patience.attempts, help="tries at every file before giving up"
    )
    parser.add_argument("--first-wait", type=float, default=Patience.first_wait, help="seconds before the second try")
    return parser


def collect_command(name: str, args: argparse.Namespace) -> str:
    """Collect the benchmark with parsed arguments; returns the line to print."""
    if args.from_dir is not None and not args.from_dir.is_dir():
        raise UserError(f"--from-dir {args.from_dir} is no folder")
    job = Collection(
        BENCHMARKS[name],
        chosen_splits(sources()[name], args.splits),
        raw_dir(name),
        args.downloads or data_root() / "downloads" / name,
        args.from_dir,
        args.allow_missing,
        args.any_edition,
        args.overwrite,
        Patience(args.attempts, args.first_wait),
    )
    counts = collect(job)
    made = ", ".join(f"{split} {count} rows" for split, count in counts.items()) or "already there"
    return f"{job.target}: {made}"
