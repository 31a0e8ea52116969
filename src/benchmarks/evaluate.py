"""The evaluation programs: one file of predictions in; its scores printed, and written as text, JSON and CSV."""

from __future__ import annotations

import argparse
import csv
import io
import math
from pathlib import Path
from typing import Any

from src.benchmarks.intervals import ROUNDS, Interval
from src.benchmarks.registry import benchmark, usual_groups
from src.benchmarks.run_loader import read_rows
from src.benchmarks.score import Scores, score_rows
from src.benchmarks.scoring import PREDICTION
from src.common.errors import UserError, name_hint
from src.common.files import write_json

_NAME_WIDTH = 44


def evaluation_parser(description: str | None, any_benchmark: bool = False) -> argparse.ArgumentParser:
    """The arguments that every evaluation program takes; ``any_benchmark`` adds those of the generic one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="JSON list or JSON lines: metadata rows with model_prediction")
    add("--key", default=PREDICTION, help="the key of the prediction (model_prediction)")
    add("--output", type=Path, help="stem of the written files; default: INPUT's with _scores")
    add("--rounds", type=int, default=ROUNDS, help=f"bootstrap rounds ({ROUNDS})")
    add("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    if any_benchmark:
        add("--name", help="name of the data set; default: the input's")
        add("--group-by", nargs="*", default=None, help="keys whose values become groups")
    return parser


def evaluate_file(name: str, args: argparse.Namespace) -> tuple[str, Scores]:
    """Score ``args.input`` by the rules of the benchmark ``name``, write the scores, and return the printed text.

    Raises :class:`UserError` if the file cannot be read or has no predictions.
    """
    if args.rounds < 1:
        raise UserError(f"--rounds is {args.rounds}, expected at least 1")
    found = read_rows(args.input)
    rows = found.rows
    if args.key != PREDICTION:
        if not any(args.key in row for row in rows):
            raise UserError(f"{args.input}: no row has the key {args.key!r}; the first has {', '.join(rows[0])}")
        rows = [{**row, PREDICTION: row[args.key]} if args.key in row else row for row in rows]
    columns = getattr(args, "group_by", None)
    known = dict.fromkeys(key for row in rows for key in row)
    if absent := [column for column in columns or () if column not in known]:
        raise UserError(f"--group-by: no row has {', '.join(absent)}; {name_hint(absent[0], known)}")
    spec = benchmark(name, usual_groups(rows) if columns is None else columns)
    scores = score_rows(spec, rows, rounds=args.rounds, seed=args.seed)
    stem = args.output or args.input.with_name(f"{args.input.stem}_scores")
    paths = write_scores(scores, args.input, stem)
    text = score_text(scores, args.input.name)
    if found.broken:
        text += f"\nnote: {len(found.broken)} line(s) could not be read and were passed over: {found.broken[:5]}"
    return f"{text}\nwritten: {', '.join(str(path) for path in paths)}", scores


def score_text(scores: Scores, source: str) -> str:
    """The printed text: each rule's own printout under its name, then every row counted, with intervals."""
    lines = [f"{scores.spec.title}: {source}, {scores.rows} rows"]
    for named in scores.rules:
        counted = named.result.published
        lines += ["", f"== {named.title}: {counted.percent} % of {counted.n} counted rows", *named.result.lines]
        lines += [f"note: {note}" for note in named.result.notes]
    lines += ["", "== every row counted, an unread reply is wrong; 95 % bootstrap intervals over rows"]
    for name, interval in scores.averages.items():
        lines.append(_line(name + (" <- headline" if name == scores.headline else ""), interval))
    lines.append(_line("answered rows alone", scores.answered))
    statuses = ", ".join(f"{name} {count}" for name, count in sorted(scores.statuses.items()))
    lines.append(f"unparsed {scores.unparsed}/{scores.rows}" + (f" ({statuses})" if statuses else ""))
    if scores.without_gold:
        lines.append(f"no known answer, not counted: {scores.without_gold}/{scores.rows}")
    for name, groups in scores.groups.items():
        lines += ["", f"{name}:", *(_line(f"  {label}", interval) for label, interval in groups.items())]
    lines += ["", *(f"note: {note}" for note in scores.spec.notes)] if scores.spec.notes else []
    return "\n".join(lines)


def _line(name: str, found: Interval) -> str:
    value = "-" if math.isnan(found.value) else f"{found.value * 100:.2f} %"
    known = not math.isnan(found.value) and not math.isnan(found.low)
    ends = f"[{found.low * 100:.2f}, {found.high * 100:.2f}]" if known else ""
    return f"{name:<{_NAME_WIDTH}} {value:>8}  {ends:<16} n {found.n}".rstrip()


def score_record(scores: Scores, source: str) -> dict[str, Any]:
    """The same as JSON: shares, not percent; NaN as null."""
    return {
        "benchmark": scores.spec.name,
        "source": source,
        "rows": scores.rows,
        "unparsed": scores.unparsed,
        "without_known_answer": scores.without_gold,
        "parse_statuses": scores.statuses,
        "headline": scores.headline,
        "bootstrap_rounds": scores.rounds,
        "averages": {name: _entry(found) for name, found in scores.averages.items()},
        "answered_rows": _entry(scores.answered),
        "groups": {
            name: {label: _entry(found) for label, found in groups.items()} for name, groups in scores.groups.items()
        },
        "rules": [
            {
                "title": named.title,
                "correct": named.result.published.right,
                "n": named.result.published.n,
                "accuracy": named.result.published.share,
                "numbers": dict(named.result.numbers),
                "tables": {
                    table: {label: {"correct": count.right, "n": count.n} for label, count in counts.items()}
                    for table, counts in named.result.tables.items()
                },
                "rows": named.result.per_row,
                "notes": list(named.result.notes),
            }
            for named in scores.rules
        ],
        "rows_every_one_counted": scores.rules[0].result.per_row_strict,
    }


def _entry(found: Interval) -> dict[str, Any]:
    # JSON has no NaN
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if math.isnan(value) else value for name, value in ends.items()} | {"n": found.n}


def score_csv(scores: Scores) -> str:
    """One line for each number: table, name, value, low, high, n (shares)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "name", "value", "low", "high", "n"))
    tables = {"average": {**scores.averages, "answered rows": scores.answered}, **scores.groups}
    for table, entries in tables.items():
        writer.writerows((table, name, *_entry(found).values()) for name, found in entries.items())
    for named in scores.rules:
        writer.writerow(("rule", named.title, named.result.published.share, "", "", named.result.published.n))
    writer.writerow(("unparsed", "", scores.unparsed / scores.rows, "", "", scores.rows))
    return text.getvalue()


def write_scores(scores: Scores, source: Path, stem: Path) -> list[Path]:
    """Write ``STEM.txt``, ``STEM.json`` and ``STEM.csv``; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("txt", "json", "csv")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(score_text(scores, source.name) + "\n", encoding="utf-8")
    write_json(paths[1], score_record(scores, source.name))
    paths[2].write_text(score_csv(scores), encoding="utf-8")
    return paths
