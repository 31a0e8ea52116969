"""A ruling's numbers in the layout of the recorded cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.benchmarks.airbench import BENCHMARK as AIRBENCH
from src.benchmarks.airbench import DOMAINS
from src.benchmarks.macro import macro
from src.benchmarks.outcomes import RIGHT, Count, Ruling


def found_scores(ruling: Ruling, rule: str) -> dict[str, Any]:
    """Everything that a case of ``rule`` may state: tables, totals, marks, and what follows from them."""
    found: dict[str, Any] = {
        **ruling.numbers,
        "rows_outcome": ruling.marks,
        "rows_in_file": len(ruling.marks),
        "correct": ruling.published.right,
        "rows_scored_with_a_stale_letter": list(ruling.stale),
        "derived_unparsed_counts_as_wrong": _without_stale(ruling),
    }
    if rule in ("mmau", "mmar"):
        tables = {name: _each(counts, _percent) for name, counts in ruling.tables.items()}
        return found | tables | {"total": _percent(ruling.published)}
    if rule.startswith("mmsu"):
        return found | {name: _each(counts, _four) for name, counts in ruling.tables.items()}
    tables = {name: _each(counts, _plain) for name, counts in ruling.tables.items()}
    return found | tables | {"derived_not_printed": _derived(ruling.tables["task"])}


def _each(counts: Mapping[str, Count], form: Any) -> dict[str, Any]:
    return {label: form(count) for label, count in counts.items()}


def _percent(count: Count) -> dict[str, Any]:
    return {"pct": count.percent, "n": count.n, "correct": count.right}


def _four(count: Count) -> str:
    return f"{count.share:.4f}"


def _plain(count: Count) -> dict[str, Any]:
    return {"n": count.n, "correct": count.right, "acc": str(count.share)}


def _without_stale(ruling: Ruling) -> dict[str, Any]:
    """The published marks with unread replies counted as wrong, over all rows of the file."""
    right = sum(mark == RIGHT and row not in ruling.stale for row, mark in enumerate(ruling.marks))
    count = Count(right, len(ruling.marks))
    return {"correct": count.right, "n": count.n, "acc": round(count.share, 6)}


def _derived(tasks: Mapping[str, Count]) -> dict[str, Any]:
    leaderboard, over_tasks = AIRBENCH.averages
    domains = {}
    for domain, names in DOMAINS.items():
        inside = {name: tasks[name] for name in names if name in tasks}
        if inside:
            domains[domain] = round(macro(inside, over_tasks), 6)
    return {
        "domain_mean_of_task_acc": domains,
        "macro_over_tasks": round(macro(tasks, over_tasks), 6),
        "leaderboard_style_mean_of_domain_means": round(macro(tasks, leaderboard), 6),
    }
