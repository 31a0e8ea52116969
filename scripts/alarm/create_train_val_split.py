"""Draw the training and validation rows of collected corpora: seed 123, a tenth for validation, as published.

Out: data/datasets/indexes/NAME/{train,validation}_indexes.npy. A corpus that has a split is skipped, whoever made it.

    python scripts/alarm/create_train_val_split.py            # every corpus that is collected
    python scripts/alarm/create_train_val_split.py esc50 music
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.corpus.postprocess.commands import corpus_parser, for_each
from src.dataset.corpus_names import corpora_with_sets


def main() -> int:
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--validation", "--val-size", type=float, default=0.1, metavar="SHARE",
        help="share of validation rows (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=123, help="default: %(default)s")
    add_overwrite(parser, "draw again where a split exists")
    args = parser.parse_args()

    from src.corpus.postprocess.split import SplitSettings, create_split

    settings = SplitSettings(args.validation, args.seed)
    return for_each(corpora_with_sets(args.names), lambda name: create_split(name, settings, args.overwrite), print)


if __name__ == "__main__":
    run_cli(main)
