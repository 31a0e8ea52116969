"""Training targets of instruction sets: the language model answers the questions that are spoken in the clips.

In:  data/datasets/raw/NAME with columns question and context; without names heysquad_human_filtered and instructs2s.
Out: data/datasets/responses/MODEL/NAME_MODEL_MAXTOKENS, answers with and without the context; where
     raw/NAME_filtered is there (scripts/alarm/filter_dataset.py), its rows of them as NAME_filtered_MODEL_MAXTOKENS.
A set that has its answers is skipped, whoever made them; a run that was stopped is resumed.

    python scripts/alarm/generate_instruction_responses.py --dataset heysquad_human instructs2s
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.common.errors import ConfigError
from src.corpus.targets.dry_run import add_dry_run, read_dry_run
from src.corpus.targets.engine_pool import Placement, add_placement
from src.corpus.targets.llm_settings import AnswerSettings, add_arguments, read_arguments

MODES = ("WithContext", "NoContext")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="raw sets, one after the other")
    parser.add_argument(
        "--dataset-name", metavar="NAME", help="one raw set, with both modes unless --only-context or --modes"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, help="with context, without, or both (default: what training reads)"
    )
    parser.add_argument("--only-context", action="store_true", help="the same as --modes WithContext")
    add_overwrite(parser, "discard earlier results of these sets", "--fresh")
    add_arguments(parser, AnswerSettings)
    add_placement(parser)
    add_dry_run(parser)
    arguments = parser.parse_args()
    settings, placement = read_arguments(arguments, AnswerSettings), read_arguments(arguments, Placement)
    names, modes = list(arguments.dataset), arguments.modes
    if arguments.only_context:
        if modes not in (None, ["WithContext"]):
            raise ConfigError(f"--only-context and --modes {' '.join(modes)} exclude each other; leave one out")
        modes = ["WithContext"]
    elif arguments.dataset_name and modes is None:
        modes = list(MODES)
    names += [arguments.dataset_name] if arguments.dataset_name else []

    dry_run = read_dry_run(arguments)
    if dry_run is not None:
        from src.corpus.targets.instructions import estimate_instruction_responses

        estimate_instruction_responses(names, settings, dry_run, print, modes, placement=placement)
        return
    from src.corpus.targets.instructions import generate_instruction_responses  # not needed for --help

    summary = generate_instruction_responses(
        names, settings, modes, overwrite=arguments.overwrite, placement=placement
    )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run_cli(main)
