"""Intervals against published and hand-computed values."""

from __future__ import annotations

import math

import pytest

from src.benchmarks.intervals import share, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score without correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_published_values(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert found.value == successes / n and found.n == n
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_is_symmetric_and_stays_in_bounds() -> None:
    for n in (1, 7, 100):
        for successes in range(n + 1):
            found, mirrored = wilson(successes, n), wilson(n - successes, n)
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert math.isclose(found.low, 1 - mirrored.high, abs_tol=1e-12)


def test_wilson_without_items_knows_nothing() -> None:
    found = wilson(0, 0)
    assert math.isnan(found.value) and (found.low, found.high, found.n) == (0.0, 1.0, 0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_share_counts_true_flags() -> None:
    assert share([True, False, True, True]) == wilson(3, 4)
