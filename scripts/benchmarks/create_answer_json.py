"""Join a run's answers with the metadata of its benchmark, by id; refuses to join what does not belong together.

In:  a run of generate_vllm_mcqa.py and the converted benchmark with its metadata.
Out: RUN/metadata/{split}_metadata.json with model_prediction in every row; the paths are printed.

    python scripts/benchmarks/create_answer_json.py --dataset-name mmar --checkpoint-name Blinorot/ALARM-CA \\
        --max-tokens 16384 --max-thinking-tokens 8192
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.benchmarks.answer_files import CHECKPOINT, DATASET, LLM, write_command  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the answers, instead of the options that name it")
    parser.add_argument(
        "--dataset", "--dataset-name", help=f"benchmark or data set; default: {DATASET}, with --run the run's own"
    )
    parser.add_argument(
        "--checkpoint",
        "--checkpoint-name",
        help=f"as given to the run; several with commas, or as the list that the run got (default: {CHECKPOINT})",
    )
    parser.add_argument(
        "--llm", "--model-name", help=f"language model of the run; default: {LLM}, else the only one with such a run"
    )
    parser.add_argument("--max-tokens", type=int, default=8192, help="as given to the run (8192)")
    parser.add_argument("--max-thinking-tokens", type=int, default=1024, help="as given to the run (1024)")
    parser.add_argument("--seed", type=int, help="as given to the run; default: a run without a seed")
    parser.add_argument("--tag", help="run_tag of the run")
    parser.add_argument("--partial", action="store_true", help="write the rows that join, leave out the others")
    parser.add_argument(
        "--key", nargs="*", default=[], help="more keys for the prediction: model_output, answer_prediction, response"
    )
    args = parser.parse_args()
    for file in write_command(args):
        print(file.path)


if __name__ == "__main__":
    run_cli(main)
