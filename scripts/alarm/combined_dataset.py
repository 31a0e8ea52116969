"""Look at the collected corpora as one set: rows and hours of each, and random examples.

python scripts/alarm/combined_dataset.py event music --examples 3
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.postprocess.commands import corpus_parser
from src.dataset.corpus_names import corpora


def main() -> None:
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--examples",
        "--n-examples",
        type=int,
        default=0,
        metavar="N",
        help="random rows of every corpus (default: 0)",
    )
    args = parser.parse_args()

    from src.corpus.postprocess.combined import combine, examples, totals

    names = corpora(args.names)
    for group, name, rows, hours in totals(names):
        print(f"{group:<20} {name:<20} {rows:>12,} rows {hours:>12,.2f} h")
    for row in examples(names, args.examples):
        print(f"{row['dataset_name']} {row['dataset_index']} ({row['unique_id_1']}, {row['unique_id_2']})")
        print(f"    {row['audio_description']}")
    print(f"{len(combine(names)):,} rows of {len(names)} corpora")


if __name__ == "__main__":
    run_cli(main)
