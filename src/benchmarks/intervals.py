"""95 % intervals of shares, means and ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A measured value, the ends of its interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the interval, ends included."""
        return self.low <= value <= self.high


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Share ``successes / n`` with Wilson's score interval (Wilson 1927, JASA 22; no continuity correction).

    It stays inside [0, 1] and is sensible at 0 and n successes. With ``n`` 0 nothing is known: value NaN in [0, 1].
    Raises ValueError unless ``0 <= successes <= n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and n, got {successes} of {n}")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Interval(share, low, high, n)


def share(flags: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Share of true flags with Wilson's interval."""
    return wilson(sum(map(bool, flags)), len(flags), confidence)


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Mean with a percentile bootstrap interval over items (Efron 1979). Raises ValueError without values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError("bootstrap_mean needs at least one value")
    means = array[_resample(len(array), seed)].mean(axis=1)
    return Interval(float(array.mean()), *_percentiles(means, confidence), len(array))


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Ratio of two means over the same items, with a paired percentile bootstrap interval.

    Item ``i`` of both sequences must be the same item: items are resampled in pairs. Resamples whose denominator is
    zero are left out. Raises ValueError for unequal lengths, no items, or a zero denominator.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or not len(top):
        raise ValueError(f"a paired ratio needs two equally long lists, got {top.shape} and {bottom.shape}")
    if bottom.mean() == 0:
        raise ValueError("a ratio to a mean of zero is not defined")
    picks = _resample(len(top), seed)
    above, below = top[picks].mean(axis=1), bottom[picks].mean(axis=1)
    kept = below != 0
    low, high = _percentiles(above[kept] / below[kept], confidence)
    return Interval(float(top.mean() / bottom.mean()), low, high, len(top))


def _resample(n: int, seed: int) -> NDArray[np.int64]:
    """Item numbers ``(RESAMPLES, n)`` drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _percentiles(samples: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)
