"""Score answers to any multiple-choice data set: right is the option whose text is the answer.

In:  rows with choices, answer and model_prediction, as create_answer_json.py writes them.
Out: printed scores (by the keys of --group-by; intervals, unparsed replies), and INPUT_scores.txt, .json and .csv
     next to the input.

    python scripts/benchmarks/evaluation/generic.py --input FILE --group-by task difficulty
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.benchmarks.evaluate import evaluate_file, evaluation_parser  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    args = evaluation_parser(__doc__, any_benchmark=True).parse_args()
    text, _ = evaluate_file(args.name or args.input.stem.removesuffix("_metadata"), args)
    print(text)


if __name__ == "__main__":
    run_cli(main)
