"""Prompts for audio corpora: a language model writes and checks some for every description; one per row is kept.

In:  data/datasets/raw/NAME (dataset_index, audio_description).
Out: data/datasets/raw_with_prompts/NAME_with_prompts, with dropped.jsonl and run.json; next to it
     NAME_with_prompts.work, the models' outputs. A corpus that has prompts is skipped, whoever made them; a run that
     was stopped is resumed.

    python scripts/alarm/create_prompts_offline.py esc50 clotho
    python scripts/alarm/create_prompts_offline.py mini --llm assets/mini/llm --prompts mini --overwrite
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.corpus.postprocess.commands import corpus_parser
from src.corpus.targets.dry_run import add_dry_run, add_one_row, read_dry_run
from src.corpus.targets.engine_pool import Placement, add_placement
from src.corpus.targets.llm_settings import PromptSettings, add_arguments, read_arguments
from src.dataset.corpus_names import corpora_with_sets


def main() -> None:
    parser = corpus_parser(__doc__)
    add_overwrite(parser, "discard the prompts that are there, and all work on them", "--redo")
    add_arguments(parser, PromptSettings)
    add_placement(parser)
    add_dry_run(parser)
    add_one_row(parser)
    arguments = parser.parse_args()
    settings, placement = read_arguments(arguments, PromptSettings), read_arguments(arguments, Placement)

    if arguments.debug_ind >= 0:
        from src.corpus.targets.prompts import show_prompts

        show_prompts(arguments.debug_dataset, arguments.debug_ind, settings, placement, print)
        return
    dry_run = read_dry_run(arguments)
    if dry_run is not None:
        from src.corpus.targets.prompts import estimate_prompts

        estimate_prompts(corpora_with_sets(arguments.names), settings, dry_run, print, placement=placement)
        return
    from src.corpus.targets.prompts import create_prompts  # vLLM and torch, not needed for --help

    names = corpora_with_sets(arguments.names)
    summary = create_prompts(names, settings, overwrite=arguments.overwrite, placement=placement)
    print(json.dumps(summary, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    run_cli(main)
