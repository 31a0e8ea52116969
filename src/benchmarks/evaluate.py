"""The evaluation programs: one file of predictions in, its scores printed and written beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from src.benchmarks.bootstrap import ROUNDS
from src.benchmarks.files import read_rows
from src.benchmarks.generic import generic, usual_groups
from src.benchmarks.outcomes import PREDICTION
from src.benchmarks.printout import score_text, write_scores
from src.benchmarks.registry import BENCHMARKS
from src.benchmarks.score import Scores, score_rows
from src.common.errors import UserError


def evaluation_parser(description: str | None, any_benchmark: bool = False) -> argparse.ArgumentParser:
    """The arguments that every evaluation program takes; ``any_benchmark`` adds those of the generic one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", type=Path, required=True, help="JSON list or JSON lines: metadata rows with model_prediction"
    )
    parser.add_argument("--key", default=PREDICTION, help="the key that holds the prediction (model_prediction)")
    parser.add_argument("--output", type=Path, help="stem of the written files; default: INPUT's with _scores")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"bootstrap rounds ({ROUNDS})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    if any_benchmark:
        parser.add_argument("--name", help="name of the data set; default: the input's")
        parser.add_argument("--group-by", nargs="*", default=None, help="keys whose values become groups")
    return parser


def evaluate_file(name: str, args: argparse.Namespace) -> tuple[str, Scores]:
    """Score ``args.input`` by the rules of the benchmark ``name``, write the scores, and return the printed text.

    Raises :class:`UserError` if the file cannot be read or holds no predictions.
    """
    if args.rounds < 1:
        raise UserError(f"--rounds is {args.rounds}, expected at least 1")
    found = read_rows(args.input)
    rows = found.rows
    if args.key != PREDICTION:
        if not any(args.key in row for row in rows):
            raise UserError(f"{args.input}: no row has the key {args.key!r}; the first has {', '.join(rows[0])}")
        rows = [{**row, PREDICTION: row[args.key]} if args.key in row else row for row in rows]
    spec = BENCHMARKS.get(name)
    if spec is None:
        columns = getattr(args, "group_by", None)
        spec = generic(name, usual_groups(rows) if columns is None else columns)
    scores = score_rows(spec, rows, rounds=args.rounds, seed=args.seed)
    stem = args.output or args.input.with_name(f"{args.input.stem}_scores")
    paths = write_scores(scores, args.input, stem)
    text = score_text(scores, args.input.name)
    if found.broken:
        text += f"\nnote: {len(found.broken)} line(s) could not be read and were passed over: {found.broken[:5]}"
    return f"{text}\nwritten: {', '.join(str(path) for path in paths)}", scores
