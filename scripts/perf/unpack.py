"""Files unpacked per second, against Python's own ``extractall``.

In:  nothing; archives of many small files are written first.
Out: a table; rows with --json. Unlike the baseline, ours compares every checksum and count, writes to a hidden folder
and moves the files when the archive was complete.
By default the time of the process counts, not that of the clock, so that other programs of the machine matter less.

    python scripts/perf/unpack.py --json unpack.json
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.perf._bench import BenchRow, alternate, bench_parser, rates, run_bench, timed
from src.common.cli import run_cli
from src.download.unpack import unpack

KINDS = ("tar", "tar.gz", "stored.zip", "deflated.zip")


def main() -> None:
    parser = bench_parser(__doc__, rounds=7)
    parser.add_argument("--files", type=int, default=15_000)
    parser.add_argument("--bytes", type=int, default=2_000, help="size of a file")
    parser.add_argument("--clock", action="store_true", help="measure by the clock")
    parser.add_argument("--root", type=Path, help="folder for archives and files (default: a temporary one)")
    run_bench(parser, measure)


def measure(args: argparse.Namespace) -> list[BenchRow]:
    """A row for each kind of archive."""
    with tempfile.TemporaryDirectory(dir=args.root) as folder:
        return [compare(Path(folder), kind, args) for kind in KINDS]


def compare(folder: Path, kind: str, args: argparse.Namespace) -> BenchRow:
    """Both ways over one archive."""
    archive, out = folder / f"x.{kind}", folder / "out"
    write_archive(archive, args.files, args.bytes)

    def way(extract: Callable[[Path, Path], object]) -> Callable[[], float]:
        clock = timed(lambda: extract(archive, out), time.perf_counter if args.clock else time.process_time)

        def run() -> float:
            seconds = clock()
            assert sum(path.is_file() for path in (out / "set").rglob("*")) == args.files
            shutil.rmtree(out)
            return seconds

        return run

    spent = alternate({"ours": way(unpack), "baseline": way(extract_plainly)}, args.rounds)
    archive.unlink()
    speeds = (rates(args.files, spent[each]) for each in ("ours", "baseline"))
    return BenchRow(f"unpack {args.files:,} files of {args.bytes:,} bytes, {kind}", "files/s", *speeds, "cpu")


def write_archive(archive: Path, files: int, size: int) -> None:
    """Members in 150 folders; half of each file can be compressed."""
    draw = random.Random(0)
    members = (
        (f"set/{number % 150:03d}/{number:06d}.wav", draw.randbytes(size // 2) + bytes(size - size // 2))
        for number in range(files)
    )
    if archive.suffix == ".zip":
        method = zipfile.ZIP_STORED if archive.name.endswith("stored.zip") else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(archive, "w", method) as packed:
            for name, data in members:
                packed.writestr(name, data)
        return
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as packed:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))


def extract_plainly(archive: Path, out: Path) -> None:
    """The standard library alone."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(out)
    else:
        with tarfile.open(archive) as packed:
            packed.extractall(out, filter="data")


if __name__ == "__main__":
    run_cli(main)
