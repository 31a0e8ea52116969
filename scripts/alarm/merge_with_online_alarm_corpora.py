"""Join the released responses (Blinorot/ALARM-Corpora) with what is collected here; dataset=alarm_corpora trains.

Rows belong together by (unique_id_1, unique_id_2, dataset_name). Out: response sets, the released split as
data/datasets/indexes_filtered/NAME, and the filtered set of spoken instructions.

    python scripts/alarm/collect.py esc50 clotho heysquad_human --as-published
    python scripts/alarm/merge_with_online_alarm_corpora.py esc50 clotho heysquad_human
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.sets.commands import add_response_arguments, corpora, corpus_parser, for_each


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    parser.add_argument("--source", default="Blinorot/ALARM-Corpora", help="Hub id or local copy of the released set")
    parser.add_argument("--revision", help="commit of the released set (default: the newest)")
    parser.add_argument("--overwrite", action="store_true", help="replace response sets and indexes that are there")
    args = parser.parse_args()

    from src.common.naming import model_short_name
    from src.corpus.sets.merge import MergeSettings, merge_corpus, open_published

    names = corpora(args.names, instruction=True)
    settings = MergeSettings(model_short_name(args.llm), args.max_tokens, args.max_thinking_tokens, args.overwrite)
    published = open_published(args.source, args.revision)
    return for_each(names, lambda name: merge_corpus(name, published, settings), print)


if __name__ == "__main__":
    run_cli(main)
