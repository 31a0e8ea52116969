"""Compare every way by which audio comes in with FFmpeg's command, over a matrix of generated files.

In: nothing; FFmpeg on the PATH makes the files. Out: a table by format (Markdown), each difference, exit code 1 if
there is one.

    python scripts/check_decoding.py                 # about 70 files
    python scripts/check_decoding.py --full --json saved/decoding.json
    python scripts/check_decoding.py --hostile       # cost of hostile clips, from eight threads
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the whole matrix (over 300 files, some minutes)")
    parser.add_argument("--hostile", action="store_true", help="measure hostile clips instead")
    parser.add_argument("--jobs", type=int, default=2, help="encoders at a time (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    args = parser.parse_args()

    if args.hostile:
        from tests.support.hostile_clips import measure_hostile

        result = measure_hostile()
        print(*result.lines(), sep="\n")
        _write(args.json, result.as_dict())
        return 1 if result.faults() else 0

    from tests.support.decoding_check import compare, every_way, rows_of
    from tests.support.decoding_matrix import make_cases

    with tempfile.TemporaryDirectory() as made:
        folder, files = Path(made, "encoded"), Path(made, "files")
        folder.mkdir()
        files.mkdir()
        cases = make_cases(folder, args.full, args.jobs)
        with every_way(files) as ways:
            differences, table = compare(cases, files, ways)
    print(*rows_of(table), sep="\n")
    for each in differences:
        print(f"{each.case} ({each.kind}), {each.way}: {each.what}")
    _write(args.json, {"table": table, "differences": [vars(each) for each in differences]})
    return 1 if differences else 0


def _write(path: Path | None, content: object) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
