"""Rows and hours of the training mixtures of the published adapters, and of all collected corpora by group.

In: data sets below DIR/datasets. Sets that are not on this machine are left out and named.

    python get_dataset_stats.py --data-dir data
"""

import argparse

from src.common.cli import run_cli
from src.common.paths import use_data_dir
from src.corpus.postprocess.commands import add_data_dir


def main() -> None:
    """Parse the arguments and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_dir(parser)
    args = parser.parse_args()
    if args.data_dir is not None:
        use_data_dir(args.data_dir, must_exist=True)

    from src.corpus.postprocess.statistics import MIXTURES, mixture_statistics, statistics, statistics_table
    from src.dataset.corpus_names import collected

    for name in MIXTURES:
        found = mixture_statistics(name)
        missing = f" (not here: {', '.join(found['missing'])})" if found["missing"] else ""
        print(f"Dataset: {name}, {found['elements']} elems, {found['hours']} hours{missing}")
    names = collected(instruction=True)
    if names:
        print(f"\n{statistics_table(statistics(names))}")


if __name__ == "__main__":
    run_cli(main)
