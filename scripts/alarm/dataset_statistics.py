"""Rows, hours and distinct prompts of the collected corpora by group: all, train, validation.

python scripts/alarm/dataset_statistics.py --json statistics.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.postprocess.commands import corpus_parser
from src.dataset.corpus_names import corpora_with_sets


def main() -> None:
    parser = corpus_parser(__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, too")
    args = parser.parse_args()

    from src.common.files import write_json
    from src.corpus.postprocess.statistics import statistics, statistics_table

    entries = statistics(corpora_with_sets(args.names, instruction=True))
    print(statistics_table(entries))
    if args.json:
        write_json(args.json, entries)


if __name__ == "__main__":
    run_cli(main)
