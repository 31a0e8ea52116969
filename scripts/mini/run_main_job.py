"""The main job: miniature data, targets, trainings, answers and the report, each stage once.

In:  assets/mini.
Out: OUT/report.html, OUT/results.json, OUT/logs, OUT/stages; data sets in data/, checkpoints in saved/.
     A stage that is done is skipped; after a failure, start the job again and it goes on.

    python scripts/mini/run_main_job.py
    python scripts/mini/run_main_job.py --full          # everything from nothing, ablations over 3 seeds
    python scripts/mini/run_main_job.py --list
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.miniature.job.commands import Layout
from examples.miniature.job.job import default_cores, print_results, run_job
from examples.miniature.job.main_job import SIZES, build_job
from src.common.cli import run_cli


def main() -> None:
    """Parse, build the job, run it, show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="retrain every part from nothing and run the ablations")
    parser.add_argument("--size", choices=sorted(SIZES), default="default", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: runs/quickstart, with --full runs/full")
    parser.add_argument("--only", metavar="STAGE", help="run this stage alone; the ones it needs must be done")
    parser.add_argument("--force", action="store_true", help="run stages again although they are done")
    parser.add_argument("--jobs", type=int, help="stages side by side (default: one a core, at most 4; 1 with a GPU)")
    parser.add_argument("--setup-seconds", type=float, help="time of the installation, noted in the results")
    parser.add_argument("--list", action="store_true", help="show the stages and their commands, run nothing")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the running commands too
    layout = Layout.of(args.out or Path("runs/full" if args.full else "runs/quickstart"), args.size, args.full)
    job = build_job(layout, SIZES[args.size], args.full)
    if args.list:
        for stage in job.stages:
            print(f"# {stage.name}: {stage.title}\n{stage.shown}\n")
        return
    report = run_job(job, layout, args.jobs or default_cores(), args.only, args.force, args.setup_seconds)
    if args.only is None:
        print_results(report.with_name("results.json"))
        print(f"\nreport: {report}")


if __name__ == "__main__":
    run_cli(main)
