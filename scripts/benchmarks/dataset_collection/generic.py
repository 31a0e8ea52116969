"""Convert a benchmark of your own: metadata and clips in a folder become a set that all benchmark programs read.

In:  NAME, and --from-dir, a folder with SPLIT.json or SPLIT.jsonl (--splits, default: test) and the clips. NAME is
     the import path of a benchmark (package.module:NAME), or any other name for rows that have question, choices,
     answer, audio (path of the clip in the folder) and id.
Out: data/datasets/raw/NAME: question, choices, answer, audio, id, dataset_index; metadata/ beside the splits.

    python scripts/benchmarks/dataset_collection/generic.py my_modules:BENCHMARK --from-dir FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.benchmarks.conversion.collect import collect_command, collector_parser  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    args = collector_parser(__doc__, any_benchmark=True).parse_args()
    print(collect_command(args.name, args))


if __name__ == "__main__":
    run_cli(main)
