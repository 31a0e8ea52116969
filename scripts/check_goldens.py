"""Compare this implementation with recorded reference numbers and print the worst difference of every case.

In: a folder of recorded cases (manifests and tensors). Out: one line per case, exit code 1 if any fails.

    python scripts/check_goldens.py DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402
from src.common.errors import UserError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of recorded cases")
    parser.add_argument("--kinds", nargs="+", help="only these kinds, for example: features encoders")
    args = parser.parse_args()
    if not args.directory.is_dir():
        raise UserError(f"{args.directory} is not a folder; give the folder of recorded cases")

    from tests.support.golden_checks import CHECKS

    unknown = sorted(set(args.kinds or ()) - set(CHECKS))
    if unknown:
        raise UserError(f"--kinds: unknown {', '.join(unknown)}; known: {', '.join(CHECKS)}")
    failed = 0
    for kind in args.kinds or CHECKS:
        try:
            for result in CHECKS[kind](args.directory):
                failed += not result.passed
                print(result.line(), flush=True)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; give the whole folder or choose --kinds") from error
        except AssertionError as error:  # a shape, length or name differs: the rest of this kind cannot be compared
            failed += 1
            print(f"FAIL {kind}: {error}", flush=True)
    print(f"{failed} cases out of tolerance" if failed else "all cases within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)
