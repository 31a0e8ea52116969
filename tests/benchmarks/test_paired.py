"""Paired comparison of two runs."""

from __future__ import annotations

from math import comb

import pytest

from src.benchmarks.intervals import compare_pairs, mcnemar
from src.benchmarks.leaderboards import published_scores


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (10, 2), (5, 5), (3, 12), (600, 500)])
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    n = first + second
    tail = sum(comb(n, k) for k in range(min(first, second) + 1))
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail / 2**n), rel=1e-9)


def test_a_probability_too_small_for_floats_is_zero() -> None:
    assert mcnemar(5000, 0) == 0.0 and 0 < mcnemar(900, 100) < 1e-100


def test_pairs_are_counted_and_the_difference_has_an_interval() -> None:
    pairs = [(True, True)] * 50 + [(True, False)] * 30 + [(False, True)] * 10 + [(False, False)] * 10
    found = compare_pairs(pairs)
    assert (found.both, found.first, found.second, found.neither) == (50, 30, 10, 10)
    assert found.difference.value == pytest.approx(0.2) and 0.05 < found.difference.low < 0.12 < 0.28
    assert found.p == pytest.approx(0.00222, abs=1e-4)
    with pytest.raises(ValueError, match="at least one common question"):
        compare_pairs([])


def test_published_scores_are_sorted_and_known_where_they_exist() -> None:
    listed = published_scores("mmau", "test-mini")
    assert [anchor.overall for anchor in listed] == sorted((anchor.overall for anchor in listed), reverse=True)
    first = next(anchor for anchor in listed if anchor.groups)
    assert first.groups == {"speech": 66.37, "sound": 79.58, "music": 66.77} and first.edition == "v05.15.25"
    rival = next(
        anchor for anchor in published_scores("mmaupro", "test") if anchor.system == "MOSS-Audio-4B-Thinking"
    )
    assert rival.overall == 60.75 and "MOSS-Audio" in rival.source
    for name in (("mmau", "test"), ("mmar", "test"), ("mmsu", "test"), ("airbench", "test")):
        assert all(anchor.source.startswith("https://") for anchor in published_scores(*name))
    assert {"GPT-4o Audio"} <= {anchor.system for anchor in published_scores("mmar", "test")}
    assert published_scores("mini_mcqa", "known") == ()
