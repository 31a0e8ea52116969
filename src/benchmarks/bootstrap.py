"""Bootstrap intervals of accuracies and of averages over groups, fast at any number of rows.

Rows that agree in their mark and in all their groups are one *cell*. Drawing n rows with replacement draws the cells'
counts from a multinomial distribution, so a round costs the number of cells, not of rows; the result has exactly the
distribution of resampling rows one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.benchmarks.intervals import Interval
from src.benchmarks.outcomes import LEFT_OUT, RIGHT
from src.benchmarks.spec import Average

ROUNDS = 1000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Resampled:
    """Rounds of a bootstrap: right and counted rows ``(rounds, groups)`` of one grouping, and the groups' names."""

    labels: tuple[str, ...]
    right: Floats
    seen: Floats

    @property
    def shares(self) -> Floats:
        """Accuracies ``(rounds, groups)``; NaN where a round drew no row of a group."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.right / self.seen


def resample(
    marks: str, groups: Mapping[str, Sequence[str | None]], rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Resampled]:
    """Resample the rows that are counted, all groupings together.

    ``groups`` has a row's label by grouping (None: in no group); the result has one entry for each of them and ``""``
    for all rows. Raises ValueError if no row is counted.
    """
    counted = np.frombuffer(marks.encode(), dtype="S1") != LEFT_OUT.encode()
    total = int(counted.sum())
    if not total:
        raise ValueError("a bootstrap needs at least one counted row")
    is_right = (np.frombuffer(marks.encode(), dtype="S1") == RIGHT.encode())[counted]
    codes, names = {}, {}
    for name, labels in groups.items():
        kept = [label for label, flag in zip(labels, counted, strict=True) if flag]
        index = {label: number for number, label in enumerate(dict.fromkeys(kept))}
        names[name] = index
        codes[name] = np.fromiter((index[label] for label in kept), dtype=np.int64, count=total)
    table = np.stack([is_right.astype(np.int64), *codes.values()], axis=1)
    cells, sizes = np.unique(table, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(total, sizes / total, size=rounds).astype(np.float64)
    right = cells[:, 0].astype(bool)
    found = {"": Resampled(("",), drawn[:, right].sum(1, keepdims=True), drawn.sum(1, keepdims=True))}
    for place, (name, index) in enumerate(names.items(), 1):
        found[name] = _by_group(drawn, right, cells[:, place], index)
    return found


def _by_group(drawn: Floats, right: NDArray[np.bool_], codes: NDArray[np.int64], index: Mapping) -> Resampled:
    members = np.zeros((len(codes), len(index)))
    members[np.arange(len(codes)), codes] = 1
    kept = [number for label, number in index.items() if label is not None]
    labels = tuple(str(label) for label in index if label is not None)
    return Resampled(labels, (drawn * right) @ members[:, kept], drawn @ members[:, kept])


def interval_of(samples: Floats, value: float, n: int, confidence: float = 0.95) -> Interval:
    """Percentile interval of a statistic's rounds ``(rounds,)``; NaN rounds (nothing was drawn) are left out."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return Interval(value, math.nan, math.nan, n)
    tail = (1 - confidence) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Interval(value, float(low), float(high), n)


def macro_rounds(resampled: Resampled, average: Average) -> Floats:
    """A macro average in every round ``(rounds,)``, over the groups that the round drew."""
    shares = resampled.shares
    parents: dict[str, list[int]] = {}
    for column, label in enumerate(resampled.labels):
        parent = average.parent(label) if average.parent else label
        if parent is not None:
            parents.setdefault(parent, []).append(column)
    if not parents:
        return np.full(len(shares), np.nan)
    means = np.stack([_mean(shares[:, columns]) for columns in parents.values()], axis=1)
    return _mean(means)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis without NaNs; NaN where there is nothing else."""
    there = np.isfinite(values)
    counts = there.sum(axis=1)
    sums = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
