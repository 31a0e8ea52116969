"""Kill a generation run again and again (SIGKILL at random moments) and compare its end with an undisturbed run.

Every second kill takes the main process only; its workers must end by themselves. With --stops, runs with two workers
follow in which one worker is stopped (SIGSTOP); they must end without help, and equal to the undisturbed run.

In: nothing; clips, questions and an audio embedder are made below --folder. Out: a report, exit code 1 if a row is
missing, there twice, or different.

    python scripts/check_kills.py --rows 1000 --kills 20
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
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="an empty folder (default: a temporary one)")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of generate_vllm.py, e.g. engine.workers=2"
    )
    args = parser.parse_args()

    from tests.support.kill_campaign import Campaign, run_campaign

    with tempfile.TemporaryDirectory() as made:
        campaign = Campaign(args.folder or Path(made), args.rows, tuple(args.overrides))
        report = run_campaign(campaign, args.kills, args.seed, args.stops)
    print(*report.lines(), sep="\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    run_cli(main)
