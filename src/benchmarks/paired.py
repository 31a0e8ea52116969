"""Two runs over the same questions: McNemar's exact test, and the difference with a paired bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.benchmarks.bootstrap import ROUNDS
from src.benchmarks.intervals import Interval


@dataclass(frozen=True)
class Paired:
    """Questions right in both runs, in the first alone, in the second alone, in neither; what follows from them.

    ``difference`` is the first's accuracy less the second's, ``p`` McNemar's exact two-sided probability.
    """

    both: int
    first: int
    second: int
    neither: int
    difference: Interval
    p: float


def compare_pairs(pairs: Sequence[tuple[bool, bool]], rounds: int = ROUNDS, seed: int = 0) -> Paired:
    """Compare verdicts on the same questions. Raises ValueError without any."""
    if not pairs:
        raise ValueError("a paired comparison needs at least one common question")
    counts = [sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True))]
    both, first, second = counts
    n = len(pairs)
    shares = np.array([first, second, n - first - second]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=rounds)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    difference = Interval((first - second) / n, float(low), float(high), n)
    return Paired(both, first, second, n - sum(counts), difference, mcnemar(first, second))


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided probability that ``first`` and ``second`` discordant pairs come from equally good systems.

    McNemar 1947, Psychometrika 12; the binomial form, right at any number of pairs.
    """
    n = first + second
    term = total = 1
    for drawn in range(min(first, second)):
        term = term * (n - drawn) // (drawn + 1)
        total += term
    return min(1.0, 2 * total / 2**n) if n < 1000 else min(1.0, _ratio(2 * total, n))


def _ratio(numerator: int, power: int) -> float:
    """``numerator / 2 ** power`` for integers beyond the range of floats."""
    shift = max(0, numerator.bit_length() - 64)
    return float(np.ldexp(float(numerator >> shift), shift - power))
