"""Training targets of audio corpora: the language model answers from descriptions, then rewrites as a listener.

In: data/datasets/raw_with_prompts/NAME_with_prompts (dataset_index, audio_description, prompt).
Out: data/datasets/responses/MODEL/NAME[_rephrased[_N]][_filtered]_MODEL_MAXTOKENS, with --rephrase or --checker-llm
beside the plain set; the answer-length filter's indexes in data/datasets/indexes_filtered/NAME/MODEL/RESPONSE_NAME.
A run that was stopped goes on where it stopped.

    python scripts/alarm/generate_responses.py --dataset mini --llm assets/mini/llm --prompts mini --rephrase
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.stages.placement import Placement, add_placement
from src.corpus.stages.response_settings import ResponseSettings, add_arguments, read_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", nargs="+", required=True, metavar="NAME", help="corpora, groups or all, one by one"
    )
    parser.add_argument("--fresh", action="store_true", help="discard earlier results of these sets")
    add_arguments(parser)
    add_placement(parser)
    arguments = parser.parse_args()
    settings, placement = read_arguments(arguments, ResponseSettings), read_arguments(arguments, Placement)

    from src.corpus.stages.responses import generate_responses  # vLLM and torch, not needed for --help

    summary = generate_responses(arguments.dataset, settings, fresh=arguments.fresh, placement=placement)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run_cli(main)
