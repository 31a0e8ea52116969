"""Compare objectives of training on the miniature: final accuracy, and steps to that of cross-entropy, by seeds.

In:  the miniature's data sets with training targets (./quickstart.sh, or its stages scenes and responses).
Out: runs below --out (a finished one is not trained again), OUT/results.json, and a table.

    python scripts/mini/compare_objectives.py --steps 750 --every 75 --seeds 0 1 2 --out runs/objectives
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli


def main() -> None:
    """Parse, train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=750, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=75, help="steps between two measurements (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=160, help="evaluation rows to answer (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--objectives", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--option", nargs="*", default=[], metavar="KEY=VALUE", help="further options of train.py")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"), help="default: %(default)s")
    args = parser.parse_args()

    from examples.miniature.compare_objectives import OBJECTIVES, summary, table, train_and_score
    from src.common.errors import UserError
    from src.common.files import write_json

    names = args.objectives or list(OBJECTIVES)
    if unknown := sorted(set(names) - OBJECTIVES.keys()):
        raise UserError(f"no objective {', '.join(unknown)}; known: {', '.join(OBJECTIVES)}")
    runs = []
    for seed in args.seeds:
        for name in dict.fromkeys(["ce", *names]):
            folder = args.out / f"{name.replace(' ', '_')}_{seed}"
            runs.append(train_and_score(name, seed, folder, args.steps, args.every, args.rows, args.option))
    rows = summary(runs)
    write_json(args.out / "results.json", {"summary": rows, "runs": [asdict(run) for run in runs]})
    print(table(rows))


if __name__ == "__main__":
    run_cli(main)
