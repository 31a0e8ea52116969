"""Training targets of instruction sets: the language model answers the questions that are spoken in the clips.

In:  data/datasets/raw/NAME with columns question and context; without names heysquad_human_filtered and instructs2s.
Out: data/datasets/responses/MODEL/NAME_MODEL_MAXTOKENS, answers with and without the context; where
     raw/NAME_filtered is there (scripts/alarm/filter_dataset.py), its rows of them as NAME_filtered_MODEL_MAXTOKENS.
A run that was stopped goes on where it stopped.

    python scripts/alarm/generate_instruction_responses.py --dataset heysquad_human instructs2s
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.stages.placement import Placement, add_placement
from src.corpus.stages.response_settings import AnswerSettings, add_arguments, read_arguments

MODES = ("WithContext", "NoContext")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="raw sets, one after the other")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, help="with context, without, or both (default: what training reads)"
    )
    parser.add_argument("--fresh", action="store_true", help="discard earlier results of these sets")
    add_arguments(parser, AnswerSettings)
    add_placement(parser)
    arguments = parser.parse_args()
    settings, placement = read_arguments(arguments, AnswerSettings), read_arguments(arguments, Placement)

    from src.corpus.stages.instructions import generate_instruction_responses  # not needed for --help

    summary = generate_instruction_responses(
        arguments.dataset, settings, arguments.modes, fresh=arguments.fresh, placement=placement
    )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run_cli(main)
