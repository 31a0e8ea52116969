"""Scores as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.benchmarks.intervals import Interval
from src.benchmarks.score import Scores
from src.common.run_record import write_json

_NAME_WIDTH = 44


def score_text(scores: Scores, source: str) -> str:
    """What an evaluation prints: each rule's own printout under its name, then every row counted, with intervals."""
    lines = [f"{scores.spec.title}: {source}, {scores.rows} rows"]
    for named in scores.rulings:
        count = named.ruling.published
        lines += ["", f"== {named.title}: {count.percent} % of {count.n} counted rows", *named.ruling.lines]
        lines += [f"note: {note}" for note in named.ruling.notes]
    lines += ["", "== every row counted, an unread reply is wrong; 95 % bootstrap intervals over rows"]
    for name, interval in scores.averages.items():
        lines.append(_line(name + (" <- headline" if name == scores.headline else ""), interval))
    lines.append(_line("answered rows alone", scores.answered))
    lines.append(f"unparsed {scores.unread}/{scores.rows}{_statuses(scores.statuses)}")
    if scores.without_gold:
        lines.append(f"no known answer, not counted: {scores.without_gold}/{scores.rows}")
    for name, groups in scores.groups.items():
        lines += ["", f"{name}:", *(_line(f"  {label}", interval) for label, interval in groups.items())]
    lines += ["", *(f"note: {note}" for note in scores.spec.notes)] if scores.spec.notes else []
    return "\n".join(lines)


def _line(name: str, found: Interval) -> str:
    value = "-" if math.isnan(found.value) else f"{found.value * 100:.2f} %"
    ends = (
        "" if math.isnan(found.value) or math.isnan(found.low) else f"[{found.low * 100:.2f}, {found.high * 100:.2f}]"
    )
    return f"{name:<{_NAME_WIDTH}} {value:>8}  {ends:<16} n {found.n}".rstrip()


def _statuses(statuses: Mapping[str, int]) -> str:
    return "" if not statuses else f" ({', '.join(f'{name} {count}' for name, count in sorted(statuses.items()))})"


def score_record(scores: Scores, source: str) -> dict[str, Any]:
    """The same as JSON: shares, not percent; NaN as null."""
    return {
        "benchmark": scores.spec.name,
        "source": source,
        "rows": scores.rows,
        "unparsed": scores.unread,
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
                "correct": named.ruling.published.right,
                "n": named.ruling.published.n,
                "accuracy": named.ruling.published.share,
                "numbers": dict(named.ruling.numbers),
                "tables": {
                    table: {label: {"correct": count.right, "n": count.n} for label, count in counts.items()}
                    for table, counts in named.ruling.tables.items()
                },
                "rows": named.ruling.marks,
                "notes": list(named.ruling.notes),
            }
            for named in scores.rulings
        ],
        "rows_every_one_counted": scores.rulings[0].ruling.strict,
    }


def _entry(found: Interval) -> dict[str, Any]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: None if math.isnan(value) else value for name, value in ends.items()} | {"n": found.n}


def score_csv(scores: Scores) -> str:
    """One line for each number: table, name, value, low, high, n (shares)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "name", "value", "low", "high", "n"))
    writer.writerows(_csv_rows(scores))
    return text.getvalue()


def _csv_rows(scores: Scores) -> Iterator[tuple[object, ...]]:
    tables = {"average": {**scores.averages, "answered rows": scores.answered}, **scores.groups}
    for table, entries in tables.items():
        for name, found in entries.items():
            yield (table, name, *_entry(found).values())
    for named in scores.rulings:
        count = named.ruling.published
        yield ("rule", named.title, count.share, "", "", count.n)
    yield ("unparsed", "", scores.unread / scores.rows, "", "", scores.rows)


def write_scores(scores: Scores, source: Path, stem: Path) -> list[Path]:
    """Write ``STEM.txt``, ``STEM.json`` and ``STEM.csv``; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("txt", "json", "csv")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(score_text(scores, source.name) + "\n", encoding="utf-8")
    write_json(paths[1], score_record(scores, source.name))
    paths[2].write_text(score_csv(scores), encoding="utf-8")
    return paths
