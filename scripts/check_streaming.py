"""Train from tar shards over a local HTTP server, kill the run (SIGKILL at random steps), continue it, and compare.

The loss costs nothing; all else is train.py: shards are fetched, clips decoded, steps cut and checkpoints written by
several processes with data workers. The rows of every step are compared with those of an undisturbed run.

In: nothing; clips and shards are made below --folder. Out: a report, exit code 1 if the order differs or a row is
trained twice or not at all.

    python scripts/check_streaming.py --rows 100000 --kills 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="data workers of each process")
    parser.add_argument("--step-rows", type=int, default=128, help="rows of a step, of all processes")
    parser.add_argument("--shuffle-rows", type=int, default=5000)
    parser.add_argument("--save-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the moments")
    parser.add_argument("--folder", type=Path, help="an empty folder (default: a temporary one)")
    args = vars(parser.parse_args())

    from tests.support.stream_campaign import StreamCampaign, run_stream_campaign

    kills, seed, folder = args.pop("kills"), args.pop("seed"), args.pop("folder")
    with tempfile.TemporaryDirectory() as made:
        report = run_stream_campaign(StreamCampaign(folder or Path(made), **args), kills, seed)
    print(*report.lines(), sep="\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    run_cli(main)
