"""How varied prompts are: distinct ones, n-grams, first words, the most repeated."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from src.corpus.survey.tally import Tally

NGRAMS = (1, 2, 3, 4)
SAMPLE = 10_000
"""Prompts whose n-grams are counted: shares of distinct n-grams fall with the number of texts, so it is bounded."""
FIRST, OPENINGS, REPEATED = 12, 4, 10
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class Repeats:
    """Counts of equal texts by their hashes, eight bytes a text."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, texts: Sequence[str]) -> None:
        """Count each text."""
        self._hashes.extend(map(hash, texts))

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences of every distinct text and the place of its first, most frequent first, then by place."""
        _, first, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_index=True, return_counts=True)
        order = np.lexsort((first, -counts))
        return counts[order], first[order]


class PromptVariety:
    """Statistics of prompts while they pass; ``expected`` is about how many will."""

    def __init__(self, expected: int) -> None:
        self.lengths = Tally(1, 2048)
        self._whole, self._first, self._opening = Repeats(), Repeats(), Repeats()
        self._stride = max(1, -(-expected // SAMPLE))
        self._seen = self._sampled = 0
        self._ngrams: dict[int, set[tuple[str, ...]]] = {n: set() for n in NGRAMS}
        self._totals = dict.fromkeys(NGRAMS, 0)

    def add(self, texts: Sequence[str]) -> None:
        """Count prompts."""
        words = [split_words(text) for text in texts]
        self.lengths.add([len(each) for each in words])
        self._whole.add([text.strip() for text in texts])
        self._first.add([opening(each, 1) for each in words])
        self._opening.add([opening(each, 3) for each in words])
        for place in range(-self._seen % self._stride, len(texts), self._stride):
            self._sampled += 1
            for n in NGRAMS:
                grams = list(zip(*(words[place][start:] for start in range(n)), strict=False))
                self._ngrams[n].update(grams)
                self._totals[n] += len(grams)
        self._seen += len(texts)

    def result(self, read: Callable[[int], str]) -> dict[str, Any] | None:
        """All numbers, for JSON; None without prompts. ``read`` gives back the n-th prompt that was counted."""
        if not self._seen:
            return None
        counts, places = self._whole.counts()
        repeated = [(int(count), int(place)) for count, place in zip(counts[:REPEATED], places, strict=False)]
        return {
            "rows": self._seen,
            "distinct": int(counts.size),
            "distinct_share": counts.size / self._seen,
            "once": int((counts == 1).sum()),
            "words": self.lengths.result(),
            "ngrams_of": self._sampled,
            "ngrams": [
                {"n": n, "distinct": len(self._ngrams[n]), "all": self._totals[n],
                 "share": len(self._ngrams[n]) / self._totals[n] if self._totals[n] else 0.0}
                for n in NGRAMS
            ],
            "first_words": self._first_words(read),
            "repeated": [{"text": read(place), "count": count} for count, place in repeated if count > 1],
        }  # fmt: skip

    def _first_words(self, read: Callable[[int], str]) -> list[dict[str, Any]]:
        """The most frequent first words, each with its most frequent beginnings of three words."""
        counts, places = self._first.counts()
        longer_counts, longer_places = self._opening.counts()
        openings: dict[str, list[dict[str, Any]]] = {}
        for count, place in zip(longer_counts[:500].tolist(), longer_places[:500].tolist(), strict=True):
            words = split_words(read(place))
            found = openings.setdefault(opening(words, 1), [])
            if len(found) < OPENINGS and len(words) > 1:
                found.append({"text": opening(words, 3), "count": count})
        found_words = []
        for count, place in zip(counts[:FIRST].tolist(), places[:FIRST].tolist(), strict=True):
            word = opening(split_words(read(place)), 1)
            share = count / self._seen
            found_words.append({"text": word, "count": count, "share": share, "openings": openings.get(word, [])})
        return found_words


def split_words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def opening(words: Sequence[str], count: int) -> str:
    """The first words as text."""
    return " ".join(words[:count])
