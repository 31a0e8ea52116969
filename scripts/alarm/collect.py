"""Collect corpora: fetch, unpack, describe, number, check and save each as data/datasets/raw/NAME.

NAME is a corpus, a group (speech, complicated_speech, event, music, environment, instruction), all, or the import
path of a recipe of your own (package.module:RECIPE). A finished corpus is left alone; one that was stopped goes on
where it stopped. Rows that cannot be used are listed with the reason in data/datasets/raw/NAME/dropped.jsonl.

    python scripts/alarm/collect.py --list
    python scripts/alarm/collect.py esc50 gtzan --jobs 8
    python scripts/alarm/collect.py music --from-dir /disk/downloads
    python scripts/alarm/collect.py my_modules:RECIPE --from-dir FOLDER
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.collect.commands import add_arguments, collect_command, listing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="corpora, groups, or all")
    parser.add_argument("--list", action="store_true", help="show the corpora and what is here, and collect nothing")
    add_arguments(parser)
    args = parser.parse_args()
    if args.list:
        print(listing(args.names))
        return 0
    if not args.names:
        parser.error("name the corpora to collect, or --list them")
    return collect_command(args.names, args)


if __name__ == "__main__":
    run_cli(main)
