"""Download and convert AIR-Bench Foundation.

In:  Hugging Face, about 49 GB; or --from-dir, a folder that has the files.
Out: data/datasets/raw/airbench: question, choices, answer, audio, id, dataset_index; metadata/ beside the splits.
     Run again after any failure: it goes on where it stopped.

    python scripts/benchmarks/dataset_collection/airbench.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.benchmarks.conversion.collect import collect_command, collector_parser  # noqa: E402
from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    print(collect_command("airbench", collector_parser(__doc__).parse_args()))


if __name__ == "__main__":
    run_cli(main)
