"""Training targets of audio corpora: the language model answers from descriptions, then rewrites as a listener.

In: data/datasets/raw_with_prompts/NAME_with_prompts (dataset_index, audio_description, prompt).
Out: data/datasets/responses/MODEL/NAME_rephrased_N_MODEL_MAXTOKENS and, made on the way, NAME_MODEL_MAXTOKENS, which
alone is written with --no-rephrase; _filtered is part of the name with --checker-llm. The answer-length filter's
indexes are in data/datasets/indexes_filtered/NAME/MODEL/RESPONSE_NAME.
Without --dataset: all corpora that have prompts. A corpus that has its responses is skipped, whoever made them; a run
that was stopped is resumed.

    python scripts/alarm/generate_responses.py --cuda-devices 0,1
    python scripts/alarm/generate_responses.py --dataset mini --llm assets/mini/llm --prompts mini
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.common.errors import ConfigError
from src.corpus.targets.dry_run import add_dry_run, add_one_row, read_dry_run
from src.corpus.targets.engine_pool import Placement, add_placement
from src.corpus.targets.llm_settings import ResponseSettings, add_arguments, read_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dataset", nargs="+", default=[], metavar="NAME", help="corpora, groups or all (default: all with prompts)"
    )
    add_overwrite(parser, "discard earlier results of these sets", "--fresh")
    add_arguments(parser, ResponseSettings)
    parser.add_argument(
        "--no-use-checker", action="store_true", help="no check of the responses, which is the default here"
    )
    add_placement(parser)
    add_dry_run(parser)
    add_one_row(parser)
    arguments = parser.parse_args()
    settings, placement = read_arguments(arguments, ResponseSettings), read_arguments(arguments, Placement)
    if arguments.no_use_checker and settings.checker_llm is not None:
        raise ConfigError("--no-use-checker and --checker-llm exclude each other; leave one out")

    if arguments.debug_ind >= 0:
        from src.corpus.targets.responses import show_response

        show_response(arguments.debug_dataset, arguments.debug_ind, settings, placement, print)
        return
    dry_run = read_dry_run(arguments)
    if dry_run is not None:
        from src.corpus.targets.responses import estimate_responses

        estimate_responses(arguments.dataset, settings, dry_run, print, placement=placement)
        return
    from src.corpus.targets.responses import generate_responses  # vLLM and torch, not needed for --help

    summary = generate_responses(arguments.dataset, settings, overwrite=arguments.overwrite, placement=placement)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run_cli(main)
