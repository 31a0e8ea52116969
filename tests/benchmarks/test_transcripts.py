"""Word error rate and content words against cases counted by hand."""

from __future__ import annotations

import pytest

from src.benchmarks.transcripts import content_words, score_transcripts, word_errors, words


def test_words() -> None:
    assert words("Press 1, then # or 10; it’s the “party's” name.") == [
        "press", "one", "then", "or", "10", "it's", "the", "party's", "name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "found", "errors"),
    [("a b c", "a b c", 0), ("a b c", "", 3), ("", "a b", 2), ("a b c d", "b c x d", 2), ("a b", "b a", 2)],
)
def test_word_errors(reference: str, found: str, errors: int) -> None:
    assert word_errors(reference.split(), found.split()) == errors


def test_content_words_count_as_often_as_they_are_there() -> None:
    assert content_words(words("the pound key, the pound"), words("Pound, and the key.")) == (2, 3)


def test_scores_and_intervals() -> None:
    references = ["press the pound key"] * 30 + ["thank you for calling"] * 10
    answers = ["press the pound key"] * 30 + ["press you for"] * 10
    scores = score_transcripts(references, answers)
    assert scores.word_error_rate.value == pytest.approx(10 * 2 / 160)
    assert scores.content_recall.value == pytest.approx(90 / 110) and scores.content_recall.n == 40
    assert scores.content_recall.low < 90 / 110 < scores.content_recall.high < 1
    same = score_transcripts(references, references).content_recall
    assert (same.low, same.value, same.high) == (1, 1, 1)
    with pytest.raises(ValueError, match="no transcripts"):
        score_transcripts([], [])
