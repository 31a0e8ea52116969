"""The corpora's description format: rounding, clock, comments."""

from __future__ import annotations

import pytest

from src.corpus.description import clock, describe_audio


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "00:00"),
        (1.5, "00:02"),
        (2.5, "00:02"),
        (25.5, "00:26"),
        (59.5, "01:00"),
        (3600, "60:00"),
        (6039, "100:39"),
    ],
)
def test_clock_rounds_ties_to_even_and_has_no_hours(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_single_texts() -> None:
    assert describe_audio(2.5, "T", "speech") == "[00:00-00:02] T (duration: 2s)"
    assert describe_audio(125.7, "C", "caption", {"A_B": "x"}) == "[00:00-02:06] |C| (duration: 126s, a_b: x)"
    assert describe_audio(1, "C", "caption", {"a": 3.0, "b": None}).endswith("(duration: 1s, a: 3.0, b: None)")


def test_segments_take_the_duration_of_the_last_one() -> None:
    described = describe_audio(0, ["a", "b"], "caption", segments=[(0, 10, "p"), (2, 8.4, "q")])
    assert described == "[00:00-00:10, p] |a| [00:02-00:08, q] |b| (duration: 8s)"
    assert describe_audio(0, [], "speech") == " (duration: 0s)"
