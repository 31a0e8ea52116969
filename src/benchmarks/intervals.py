"""95 % intervals of shares (Wilson), accuracies and macro averages (bootstrap); paired comparison of two runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from src.benchmarks.scoring import NOT_COUNTED, RIGHT, Accuracy, Average

ROUNDS = 1000
TAIL = (1 - 0.95) / 2
"""Not written as 0.025, which differs in the last bit: numbers of earlier reports stay equal."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A measured value, the ends of its 95 % interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def contains(self, value: float) -> bool:
        """Whether ``value`` is in the interval, ends included."""
        return self.low <= value <= self.high


UNKNOWN = Interval(math.nan, 0.0, 1.0, 0)
"""A share of no items."""


def wilson(successes: int, n: int) -> Interval:
    """Share ``successes / n`` with Wilson's score interval (Wilson 1927, JASA 22; no continuity correction).

    It stays inside [0, 1] and is sensible at 0 and n successes. With ``n`` 0 nothing is known: value NaN in [0, 1].
    Raises ValueError unless ``0 <= successes <= n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes} of {n}")
    if n == 0:
        return UNKNOWN
    # not the normal approximation, which has no width at shares of 0 and 1
    z = NormalDist().inv_cdf(0.975)
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # at the ends the formula gives exactly 0 and 1 but for rounding
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Interval(share, low, high, n)


def share(flags: Sequence[bool]) -> Interval:
    """Share of true flags with Wilson's interval."""
    return wilson(sum(map(bool, flags)), len(flags))


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
    per_row: str, groups: Mapping[str, Sequence[str | None]], rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Resampled]:
    """Resample the rows that are counted, all groupings together.

    ``per_row`` as in :class:`~src.benchmarks.scoring.RuleResult`, ``groups`` has a row's label by grouping (None: in
    no group). The result has one entry for each grouping and ``""`` for all rows. Raises ValueError if no row is
    counted.
    """
    codes = np.frombuffer(per_row.encode(), dtype="S1")
    counted = codes != NOT_COUNTED.encode()
    total = int(counted.sum())
    if not total:
        raise ValueError("a bootstrap needs at least one counted row")
    columns, indexes = [(codes == RIGHT.encode())[counted].astype(np.int64)], {}
    for name, labels in groups.items():
        kept = [label for label, flag in zip(labels, counted, strict=True) if flag]
        indexes[name] = {label: number for number, label in enumerate(dict.fromkeys(kept))}
        columns.append(np.fromiter((indexes[name][label] for label in kept), dtype=np.int64, count=total))
    # Rows that agree in their code and in all their groups are one cell. Drawing n rows with replacement draws the
    # cells' counts from a multinomial distribution: the same distribution, at the cost of cells instead of rows.
    cells, sizes = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(total, sizes / total, size=rounds).astype(np.float64)
    right = cells[:, 0].astype(bool)
    found = {"": Resampled(("",), drawn[:, right].sum(1, keepdims=True), drawn.sum(1, keepdims=True))}
    for place, (name, index) in enumerate(indexes.items(), 1):
        members = np.zeros((len(cells), len(index)))
        members[np.arange(len(cells)), cells[:, place]] = 1
        members = members[:, [number for label, number in index.items() if label is not None]]
        names = tuple(str(label) for label in index if label is not None)
        found[name] = Resampled(names, (drawn * right) @ members, drawn @ members)
    return found


def interval_of(samples: Floats, value: float, n: int) -> Interval:
    """Percentile interval of a statistic's rounds ``(rounds,)``; NaN rounds (nothing was drawn) are left out."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(kept, [TAIL, 1 - TAIL])
    return Interval(value, float(low), float(high), n)


def macro(groups: Mapping[str, Accuracy], average: Average) -> float:
    """The average over the groups that have rows; NaN without any. Groups of no parent are left out."""
    nested: dict[str, list[float]] = {}
    for label, found in groups.items():
        parent = average.parent(label) if average.parent else label
        if parent is not None and found.n:
            nested.setdefault(parent, []).append(found.share)
    means = [sum(shares) / len(shares) for shares in nested.values()]
    return sum(means) / len(means) if means else math.nan


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
    return _mean(np.stack([_mean(shares[:, columns]) for columns in parents.values()], axis=1))


def _mean(values: Floats) -> Floats:
    """Mean over the last axis without NaNs; NaN where there is nothing else (numpy's nanmean warns about it)."""
    there = np.isfinite(values)
    counts = there.sum(axis=1)
    sums = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


@dataclass(frozen=True)
class PairedComparison:
    """Questions right in both runs, only in the first, only in the second, in neither; what follows from them.

    ``difference`` is the first's accuracy less the second's, ``p`` McNemar's exact two-sided probability.
    """

    both: int
    first: int
    second: int
    neither: int
    difference: Interval
    p: float


def compare_pairs(pairs: Sequence[tuple[bool, bool]]) -> PairedComparison:
    """Compare verdicts on the same questions. Raises ValueError without any."""
    if not pairs:
        raise ValueError("a paired comparison needs at least one common question")
    n = len(pairs)
    both, first, second = (
        sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True))
    )
    # the runs answer the same questions: drawing pairs keeps how their verdicts go together
    shares = np.array([first, second, n - first - second]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, size=ROUNDS)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    difference = Interval((first - second) / n, float(low), float(high), n)
    return PairedComparison(both, first, second, n - both - first - second, difference, mcnemar(first, second))


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided probability that ``first`` and ``second`` discordant pairs come from equally good systems.

    McNemar 1947, Psychometrika 12; the binomial form, right at any number of pairs.
    """
    n = first + second
    term = total = 1  # exact integers: binomial coefficients exceed floats from about n = 1,030 on
    for drawn in range(min(first, second)):
        term = term * (n - drawn) // (drawn + 1)
        total += term
    if n < 1000:
        return min(1.0, 2 * total / 2**n)
    # 2 ** n has no float from n = 1024 on: keep the 64 leading bits of the numerator, and add the exponents
    shift = max(0, (2 * total).bit_length() - 64)
    return min(1.0, float(np.ldexp(float(2 * total >> shift), shift - n)))
