"""Draw the curves of training runs, several over each other, also of one that is still running.

In: output folders of train.py (metrics.jsonl, samples.jsonl, run.json). Out: one HTML page that needs no other file.

    python scripts/plot_curves.py saved/whisper saved/whisper_low_rate --out curves.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of a training run")
    parser.add_argument("--out", type=Path, help="the page; default: curves.html, in the run's folder if it is one")
    args = parser.parse_args()

    from src.report.curves import write_curves

    out = args.out or (args.runs[0] / "curves.html" if len(args.runs) == 1 else Path("curves.html"))
    write_curves(args.runs, out)
    print(out)


if __name__ == "__main__":
    run_cli(main)
