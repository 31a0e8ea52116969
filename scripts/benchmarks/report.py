"""One HTML page over any number of benchmark runs, which needs nothing from outside.

In:  output folders of generate_vllm_mcqa.py; the converted benchmarks they were asked about.
Out: scores with intervals, groups, paired comparisons of runs, published scores, lengths of replies, budget hits,
     unparsed replies, and single questions with their clips.

    python scripts/benchmarks/report.py data/datasets/generated/LLM/mmar_A_16384_8192 OTHER_RUN --output report.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run's answers")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.html"), help="the page (benchmarks.html)")
    parser.add_argument("--questions", type=int, default=40, help="single questions shown of each split (40)")
    parser.add_argument("--audio-mb", type=float, default=30.0, help="room for clips in the page, in megabytes (30)")
    args = parser.parse_args()

    from src.report.benchmark_page import write_page

    write_page(args.runs, args.output, args.questions, args.audio_mb)
    print(args.output)


if __name__ == "__main__":
    run_cli(main)
