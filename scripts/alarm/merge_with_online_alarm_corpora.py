"""Join the released responses (Blinorot/ALARM-Corpora) with what is collected here.

Rows belong together by (unique_id_1, unique_id_2, dataset_name). Two forms:

--save-name NAME   one set, data/datasets/NAME: all rows of the released splits raw_train and raw_validation (with
                   --merge-filtered: train and validation) and their clips. Rows without a clip here are left out.
otherwise          sets that training reads (dataset=alarm_corpora): response sets, the released split as
                   data/datasets/indexes_filtered/NAME, the filtered set of spoken instructions, and the released
                   prompts as data/datasets/raw_with_prompts/NAME_with_prompts, which another model can answer.

What is there and complete is skipped.

    python scripts/alarm/collect.py esc50 clotho heysquad_human --as-published
    python scripts/alarm/merge_with_online_alarm_corpora.py esc50 clotho heysquad_human
    python scripts/alarm/merge_with_online_alarm_corpora.py --save-name alarm_merged --merge-filtered
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.common.paths import use_data_dir
from src.corpus.postprocess.commands import add_data_dir, add_response_arguments, corpus_parser, for_each
from src.dataset.corpus_names import corpora


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    parser.add_argument("--save-name", metavar="NAME", help="write one set of this name, with audio")
    parser.add_argument(
        "--merge-filtered",
        action="store_true",
        help="the filtered splits as one set (--save-name: alarm_merged)",
    )
    parser.add_argument("--source", default="Blinorot/ALARM-Corpora", help="Hub id or local copy of the released set")
    parser.add_argument("--revision", help="commit of the released set (default: the newest)")
    add_data_dir(parser)
    add_overwrite(parser, "replace sets, indexes and prompts that are there")
    args = parser.parse_args()
    if args.data_dir is not None:
        use_data_dir(args.data_dir, must_exist=True)

    from src.common.naming import model_short_name
    from src.corpus.postprocess.merge import MergeSettings, merge_corpus, open_published

    if args.save_name is not None or args.merge_filtered:
        from src.corpus.postprocess.merged_set import merge_to_one_set
        from src.dataset.corpus_names import all_corpora, resolve_names

        names = resolve_names(list(args.names), all_corpora()) if args.names else []
        published = open_published(args.source, args.revision)
        name = args.save_name or "alarm_merged"
        counts = merge_to_one_set(name, published, args.merge_filtered, names, args.overwrite)
        print(f"{name}: {json.dumps(counts)}")
        return 0
    names = corpora(args.names, instruction=True)
    settings = MergeSettings(model_short_name(args.llm), args.max_tokens, args.max_thinking_tokens, args.overwrite)
    published = open_published(args.source, args.revision)
    return for_each(names, lambda name: merge_corpus(name, published, settings), print)


if __name__ == "__main__":
    run_cli(main)
