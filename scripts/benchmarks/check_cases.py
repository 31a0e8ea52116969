"""Run recorded benchmark cases through this implementation and print what differs.

In:  a folder of cases: expected.json with the files it names, conversion/, end_to_end/, parsing.json, join.json,
     unscorable.json. Out: one line a case and every difference below it; exit code 1 if there is any.

    python scripts/benchmarks/check_cases.py tests/reference/benchmark_cases
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of recorded cases")
    args = parser.parse_args()

    from tests.support.benchmark_cases import check_cases

    results = []
    for result in check_cases(args.directory):
        results.append(result)
        print(result.line(), flush=True)
    failed = sum(bool(result.differences) for result in results)
    print(f"{failed} of {len(results)} cases differ" if failed else f"all {len(results)} cases agree")
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)
