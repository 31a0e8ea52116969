"""Macro averages: means over groups, whatever their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from src.benchmarks.outcomes import Count
from src.benchmarks.spec import Average


def macro(counts: Mapping[str, Count], average: Average) -> float:
    """The average over the groups that have rows; NaN without any. Groups of no parent are left out."""
    nested: dict[str, list[float]] = {}
    for label, count in counts.items():
        parent = average.parent(label) if average.parent else label
        if parent is not None and count.n:
            nested.setdefault(parent, []).append(count.share)
    means = [sum(shares) / len(shares) for shares in nested.values()]
    return sum(means) / len(means) if means else math.nan
