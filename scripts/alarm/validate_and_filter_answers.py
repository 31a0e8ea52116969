"""Leave rows out of the split whose answer is unsound, too short or too long, in tokens of the model that answered.

In:  responses of scripts/alarm/generate_responses.py (which filters by itself), or published ones (--tokenizer).
Out: data/datasets/indexes_filtered/NAME/MODEL/RESPONSE_NAME, which training reads before all other indexes. Indexes
     of another program are skipped; those of this program are brought up to date.
Without names: all corpora that have these responses.

    python scripts/alarm/validate_and_filter_answers.py esc50 --tokens-min 100 --tokens-max 612
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.corpus.postprocess.commands import (
    add_plain,
    add_response_arguments,
    corpus_parser,
    for_each,
    response_folder,
)
from src.dataset.corpus_names import corpora_with_sets


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    add_plain(parser)
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="counts tokens where a set has no counts (default: model that answered)",
    )
    parser.add_argument(
        "--tokens-min", "--tokens-min-limit", type=int, default=100, metavar="N", help="shortest answer to keep (100)"
    )
    parser.add_argument(
        "--tokens-max", "--tokens-max-limit", type=int, default=612, metavar="N", help="longest answer to keep (612)"
    )
    parser.add_argument("--n-jobs", type=int, metavar="N", help="threads of the tokenizer (default: all processors)")
    add_overwrite(parser, "filter again where another program's indexes exist", also=("--force-rewrite",))
    args = parser.parse_args()

    from src.corpus.postprocess.order import existing
    from src.corpus.targets.answer_filter import LengthLimits, filter_by_answer, require_rows, token_counter

    if args.n_jobs is not None:
        os.environ["RAYON_NUM_THREADS"] = str(max(1, args.n_jobs))  # read by the tokenizers library
    limits = LengthLimits(args.tokens_min, args.tokens_max)
    model = args.tokenizer or (args.llm if "/" in args.llm else None)
    count = token_counter(model) if model else None

    def work(name: str) -> dict[str, object]:
        folder = response_folder(name, args, not args.plain)
        counts = filter_by_answer(name, folder, limits, count, args.overwrite)
        require_rows(folder, counts, limits)
        return counts

    names = corpora_with_sets(args.names)
    if not args.names:
        names = [name for name in names if existing([response_folder(name, args, not args.plain)])]
    return for_each(names, work, print)


if __name__ == "__main__":
    run_cli(main)
