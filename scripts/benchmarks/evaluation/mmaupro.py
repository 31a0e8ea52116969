"""Score answers to MMAU-Pro (multiple choice over one clip).

In:  metadata with the key model_prediction, as create_answer_json.py writes it.
Out: printed scores (equality with the right option; by category and length;
     intervals, unparsed replies), and INPUT_scores.txt, .json and .csv next to the input.

    python scripts/benchmarks/evaluation/mmaupro.py --input FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.benchmarks.evaluate import evaluate_file, evaluation_parser  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    text, _ = evaluate_file("mmaupro", evaluation_parser(__doc__).parse_args())
    print(text)


if __name__ == "__main__":
    run_cli(main)
