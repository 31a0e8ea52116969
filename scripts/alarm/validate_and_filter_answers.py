"""Leave rows out of the split whose answer is unsound, too short or too long, in tokens of the model that answered.

In:  responses of scripts/alarm/generate_responses.py (which filters by itself), or published ones (--tokenizer).
Out: data/datasets/indexes_filtered/NAME/MODEL/RESPONSE_NAME, which training reads before all other indexes.

    python scripts/alarm/validate_and_filter_answers.py esc50 --tokens-min 100 --tokens-max 612
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.sets.commands import (
    add_response_arguments,
    corpora_with_sets,
    corpus_parser,
    for_each,
    response_folder,
)


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    parser.add_argument("--plain", action="store_true", help="the responses that were not rephrased")
    parser.add_argument("--tokenizer", metavar="MODEL", help="counts tokens of sets that do not tell them")
    parser.add_argument("--tokens-min", type=int, default=100, metavar="N", help="shortest answer to keep")
    parser.add_argument("--tokens-max", type=int, default=612, metavar="N", help="longest answer to keep")
    args = parser.parse_args()

    from src.corpus.stages.answer_filter import LengthLimits, filter_by_answer, token_counter

    limits = LengthLimits(args.tokens_min, args.tokens_max)
    count = token_counter(args.tokenizer) if args.tokenizer else None

    def work(name: str) -> dict[str, object]:
        return filter_by_answer(name, response_folder(name, args, not args.plain), limits, count)

    return for_each(corpora_with_sets(args.names), work, print)


if __name__ == "__main__":
    run_cli(main)
