"""Run every command line of the published system in miniature and say whether it is accepted and means the same.

In:  nothing; a copy of the repository, tiny data and a local stand-in for the Hub are made below --world.
Out: a line for each command, exit code 1 if one is refused. The logs of the commands are in WORLD/logs.

    python scripts/check_published_surface.py --fast      # only parse (seconds)
    python scripts/check_published_surface.py             # run all (about a quarter of an hour on two cores)
    python scripts/check_published_surface.py --only 12 14
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402
from src.common.errors import UserError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="N", help="only these rows of docs/migrating.md")
    parser.add_argument("--fast", action="store_true", help="parse the commands as written, run none")
    parser.add_argument("--world", type=Path, metavar="DIR", help="scratch folder, kept (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    parser.add_argument("--table", action="store_true", help="print the table of docs/migrating.md and stop")
    args = parser.parse_args()

    from tests.support import published_surface as surface

    if args.table:
        print(surface.table_markdown(), end="")
        return 0
    commands = surface.read_commands(args.only)
    if not commands:
        raise UserError(f"--only {' '.join(args.only)}: no such row; see docs/migrating.md")
    if args.fast:
        results = surface.parse_commands(commands)
    else:
        with tempfile.TemporaryDirectory() as made:
            results = surface.run_in_world(commands, (args.world or Path(made)).resolve())
    if not args.only:
        results += [*surface.parse_flags(), *surface.parse_keys(), *surface.import_names()]
    for result in results if args.fast else results[len(commands) :]:
        print(result.line())
    counts = {verdict: sum(each.verdict == verdict for each in results) for verdict in surface.VERDICTS}
    print(f"\n{', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(each) for each in results], indent=1), encoding="utf-8")
    return int(counts["refused"] > 0)


if __name__ == "__main__":
    run_cli(main)
