"""Word error rate and recall of content words of transcripts, with intervals from a bootstrap over clips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from src.benchmarks.intervals import ROUNDS, Interval, interval_of

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FUNCTION_WORDS = """
    a an the and or but if so as than that this these those there here of to in on at by for from with into out up
    down over under about i me my we us our you your he him his she her it its they them their who which what when
    where how am is are was were be been being do does did done have has had will would shall should can could may
    might must not no nor s t d ll re ve m
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that carry little content: a model without audio gets many of them right."""


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; single digits are words ("1": "one")."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))
    return [_DIGITS[int(word)] if len(word) == 1 and word in "0123456789" else word for word in found]


def word_errors(reference: Sequence[str], found: Sequence[str]) -> int:
    """Fewest substitutions, insertions and deletions between two word sequences."""
    row = list(range(len(found) + 1))  # of the table of Wagner and Fischer (J. ACM 21, 1974), replaced in place
    for place, word in enumerate(reference, 1):
        before, row[0] = row[0], place
        for index, other in enumerate(found, 1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (word != other))
    return row[-1]


def content_words(reference: Sequence[str], found: Sequence[str]) -> tuple[int, int]:
    """Content words of the reference that were found (as often as they are there), and their number."""
    wanted = Counter(word for word in reference if word not in FUNCTION_WORDS)
    return sum((wanted & Counter(found)).values()), sum(wanted.values())


@dataclass(frozen=True)
class TranscriptScores:
    """Shares over all clips, with their number: ``word_error_rate`` (may exceed 1) and ``content_recall``."""

    word_error_rate: Interval
    content_recall: Interval


def score_transcripts(references: Sequence[str], answers: Sequence[str], seed: int = 0) -> TranscriptScores:
    """Score answers against references, clip by clip; the intervals draw clips with replacement.

    Raises ValueError for lists of different lengths and for none at all.
    """
    pairs = [(words(reference), words(answer)) for reference, answer in zip(references, answers, strict=True)]
    if not pairs:
        raise ValueError("no transcripts to score")
    errors = np.array([word_errors(*pair) for pair in pairs], dtype=np.float64)
    lengths = np.array([len(reference) for reference, _ in pairs], dtype=np.float64)
    content = np.array([content_words(*pair) for pair in pairs], dtype=np.float64)
    drawn = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=ROUNDS)

    def ratio(above: np.ndarray, below: np.ndarray) -> Interval:
        with np.errstate(invalid="ignore", divide="ignore"):
            return interval_of((drawn @ above) / (drawn @ below), above.sum() / below.sum(), len(pairs))

    return TranscriptScores(ratio(errors, lengths), ratio(content[:, 0], content[:, 1]))


def table(scores: Mapping[str, TranscriptScores]) -> str:
    """Markdown: a row for each name, shares in percent with their 95 % intervals."""
    head = ["| audio | clips | content words recalled | word error rate |", "| --- | --- | --- | --- |"]
    lines = [
        f"| {name} | {found.content_recall.n} | {_percent(found.content_recall)} | "
        f"{_percent(found.word_error_rate)} |"
        for name, found in scores.items()
    ]
    return "\n".join([*head, *lines])


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
