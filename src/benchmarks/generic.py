"""Any data set with question, choices, answer and audio: right is the option whose text is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from src.benchmarks.mmaupro import published as equality
from src.benchmarks.outcomes import Row, Ruling, label_of
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row
from src.prompts.options import choice_texts

USUAL_GROUPS = (
    "task", "task_name", "kind", "modality", "category", "sub-category", "subcategory", "difficulty", "language",
)  # fmt: skip
"""Columns that become groups where a data set has them and nothing else is asked for."""
MOST_GROUPS = 100


def generic(name: str, group_by: Sequence[str] = (), splits: Sequence[str] = ("test",)) -> Benchmark:
    """The benchmark of a converted set that is none of the known ones; ``group_by`` names columns of its metadata."""
    groupings = tuple(Grouping(column, partial(label_of, key=column)) for column in group_by)
    return Benchmark(
        name=name,
        title=name,
        splits=tuple(splits),
        groupings=groupings,
        published_title="equality with the right option's text",
        published=partial(_ruling, groupings=groupings),
        convert=convert,
        averages=tuple(Average(f"mean over {column}", column) for column in group_by),
    )


def _ruling(rows: Sequence[Row], groupings: Sequence[Grouping]) -> Ruling:
    found = equality(rows)
    count = found.published
    line = f"Accuracy: {count.percent}% over {count.n} samples"
    return Ruling(found.marks, found.strict, found.unread, (line,), {}, {"pct": count.percent})


def usual_groups(rows: Sequence[Row]) -> list[str]:
    """Columns of ``rows`` that are usual groups and tell at least two and at most 100 kinds of rows apart."""
    columns = {column for row in rows for column in row}
    return [
        column
        for column in USUAL_GROUPS
        if column in columns and 1 < len({label_of(row, column) for row in rows}) <= MOST_GROUPS
    ]


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a row that already has them by name; everything but the clip becomes text."""
    answer = None if row.get("answer") is None else str(row["answer"])
    choices = choice_texts(row["choices"])
    return common_row(
        str(row["question"]), choices, answer, str(row.get("audio", "")), str(row.get("id", index)), index
    )
