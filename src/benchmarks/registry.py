"""Benchmarks by short name or import path, and a generic one for any set with question, choices, answer and audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.benchmarks.rules import score_by_equality
from src.benchmarks.scoring import Average, Benchmark, BenchmarkRow, GroupBy, RuleResult, common_row, label_of
from src.common.errors import ConfigError
from src.common.existing import read_record
from src.common.modules import ModuleRegistry
from src.common.paths import raw_dir
from src.prompts.multiple_choice import choice_texts

BENCHMARKS = ModuleRegistry(
    "benchmark",
    "src.benchmarks.scoring:Benchmark",
    {name: f"src.benchmarks.{name}:BENCHMARK" for name in ("airbench", "mmar", "mmau", "mmaupro", "mmsu")},
)
USUAL_GROUPS = (
    "task", "task_name", "kind", "modality", "category", "sub-category", "subcategory", "difficulty", "language",
)  # fmt: skip
"""Columns that become groups where a data set has them and nothing else is asked for."""
MOST_GROUPS = 100


def benchmark(name: str, group_by: Sequence[str] = ()) -> Benchmark:
    """The benchmark of a short name, an import path ``package.module:NAME`` or the name of a converted set.

    A set that was converted for a benchmark of one's own has its import path in its record. For any other name it is
    a generic one, grouped by the given columns of its metadata. Raises :class:`ConfigError` as
    :meth:`ModuleRegistry.load` does, and for a name that a shipped benchmark has.
    """
    path = name
    if name not in BENCHMARKS and ":" not in name:
        path = str(read_record(raw_dir(name)).get("config", {}).get("benchmark", ""))
        if ":" not in path:
            return generic(name, group_by)
    found: Benchmark = BENCHMARKS.load(path, f"benchmark {name}")
    if path not in BENCHMARKS and found.name in BENCHMARKS:
        raise ConfigError(f"benchmark {path}: the name {found.name!r} is taken by a shipped one; choose another name")
    return found


def generic(name: str, group_by: Sequence[str] = ()) -> Benchmark:
    """The benchmark of a converted set that is none of the known ones; ``group_by`` names columns of its metadata."""
    return Benchmark(
        name=name,
        title=name,
        groupings=tuple(GroupBy.column(column) for column in group_by),
        published_title="equality with the right option's text",
        published=_equality,
        convert=_convert,
        averages=tuple(Average(f"mean over {column}", column) for column in group_by),
    )


def _equality(rows: Sequence[BenchmarkRow]) -> RuleResult:
    result = score_by_equality(rows)
    found = result.published
    line = f"Accuracy: {found.percent}% over {found.n} samples"
    return replace(result, lines=(line,), numbers={"pct": found.percent})


def _convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a row that already has them by name; everything but the clip becomes text."""
    answer = None if row.get("answer") is None else str(row["answer"])
    choices = choice_texts(row["choices"])
    return common_row(
        str(row["question"]), choices, answer, str(row.get("audio", "")), str(row.get("id", index)), index
    )


def usual_groups(rows: Sequence[BenchmarkRow]) -> list[str]:
    """Columns of ``rows`` that are usual groups and divide the rows into 2 to 100 groups."""
    columns = {column for row in rows for column in row}
    return [
        column
        for column in USUAL_GROUPS
        # a column of ids would make a group of every row
        if column in columns and 1 < len({label_of(row, column) for row in rows}) <= MOST_GROUPS
    ]
