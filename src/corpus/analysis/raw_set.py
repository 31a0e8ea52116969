"""A corpus's raw set and prompts in numbers: rows and hours by split, durations, descriptions, prompts' variety."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.paths import indexes_dir, indexes_filtered_dir, prompts_dir, raw_dir
from src.corpus.analysis.histogram import RunningHistogram, column_batches, spread
from src.dataset.splits import read_indexes
from src.dataset.tables import column_numbers, find_rows, native_splits, open_split, read_keys

DESCRIPTIONS, PROMPTS = ("audio_description", "question"), ("prompt", "question")
"""Columns with the description of a clip, and with the question about it; the first that a set has counts."""
NGRAMS = (1, 2, 3, 4)
# Shares of distinct n-grams (https://arxiv.org/abs/1510.03055) fall with the number of texts: counted over as many
# prompts of every corpus, they can be compared.
SAMPLE = 10_000
"""Prompts whose n-grams are counted."""
FIRST, OPENINGS, REPEATED = 12, 4, 10
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def measure_raw(name: str, limit: int | None) -> dict[str, Any]:
    """Rows, hours, durations and descriptions of ``raw/NAME``; ``limit`` bounds the descriptions that are read.

    ``levels`` are the stages of its splits: the set itself, its indexes, those after the audio filter.
    """
    folder, where = raw_dir(name), f"raw set {name}"
    durations, levels = RunningHistogram(0.1, 600), []
    set_splits: dict[str, dict[str, Any]] = {}
    keys, seconds = np.zeros(0, np.int64), None
    for split in native_splits(folder):
        table = open_split(folder, split, where)
        seconds = column_numbers(table, "duration")
        durations.add([] if seconds is None else seconds)
        keys = read_keys(table, where)
        set_splits[split] = _part(np.arange(len(table)), seconds)
    levels.append({"title": "raw set", "splits": set_splits})
    for title, indexes in (("split", indexes_dir(name)), ("audio filter", indexes_filtered_dir(name))):
        # indexes are of audio corpora, which have one split; keys and seconds are then those of this split
        chosen = {split: find_rows(keys, wanted) for split, wanted in read_indexes(indexes).items()}
        if chosen and len(set_splits) == 1:
            parts = {split: _part(rows[rows >= 0], seconds) for split, rows in chosen.items()}
            levels.append({"title": title, "splits": parts})
    rows = sum(part["rows"] for part in set_splits.values())
    column_names = open_split(folder, native_splits(folder)[0], where).column_names
    return {
        "rows": rows,
        "hours": None if not durations.n else round(durations.total / 3600, 4),
        "levels": levels,
        "durations": durations.result(),
        "descriptions": _descriptions(name, column_names, limit),
        "left_out": {
            "collecting": dropped_reasons(folder / "dropped.jsonl"),
            "audio filter": dropped_reasons(indexes_filtered_dir(name) / "dropped.jsonl"),
        },
    }


def _part(rows: np.ndarray, seconds: np.ndarray | None) -> dict[str, Any]:
    return {
        "rows": int(rows.size),
        "hours": None if seconds is None else round(float(np.nansum(seconds[rows])) / 3600, 4),
    }


def _descriptions(name: str, columns: list[str], limit: int | None) -> dict[str, Any] | None:
    """Lengths of the texts that stand for the clips, in characters and words."""
    column = next((each for each in DESCRIPTIONS if each in columns), None)
    if column is None:
        return None
    characters, words, empty = RunningHistogram(1, 8192), RunningHistogram(1, 2048), 0
    for split in native_splits(raw_dir(name)):
        for _, batch in column_batches(raw_dir(name), split, [column], limit, f"{name}: descriptions"):
            texts = [text or "" for text in batch[column]]
            empty += sum(not text.strip() for text in texts)
            characters.add([len(text) for text in texts])
            words.add([len(text.split()) for text in texts])
    return {"column": column, "empty": empty, "characters": characters.result(), "words": words.result()}


def measure_prompts(name: str, limit: int | None) -> dict[str, Any] | None:
    """The prompts' variety: of the prompt set, else of the raw set's own questions; None if there are neither."""
    for folder, source in ((prompts_dir(name), "prompt set"), (raw_dir(name), "raw set")):
        if not folder.is_dir():
            continue
        splits = native_splits(folder)
        tables = {split: open_split(folder, split, f"prompts of {name}") for split in splits}
        shared = set.intersection(*(set(table.column_names) for table in tables.values()))
        column = next((each for each in PROMPTS if each in shared), None)
        if column is not None:
            sizes = {split: len(table) for split, table in tables.items()}
            return {"source": source, **_variety(name, folder, sizes, column, limit)}
    return None


def _variety(name: str, folder: Path, sizes: dict[str, int], column: str, limit: int | None) -> dict[str, Any]:
    ranges = [(split, start, stop) for split, rows in sizes.items() for start, stop in spread(rows, limit)]
    ends = np.cumsum([stop - start for _, start, stop in ranges])
    variety = PromptVariety(int(ends[-1]) if ends.size else 0)
    for split in sizes:
        for _, batch in column_batches(folder, split, [column], limit, f"{name}: prompts"):
            variety.add([text or "" for text in batch[column]])
    tables = {split: open_split(folder, split, f"prompts of {name}").select_columns([column]) for split in sizes}

    def read(number: int) -> str:
        place = int(np.searchsorted(ends, number, side="right"))
        split, start, stop = ranges[place]
        return tables[split][number - int(ends[place]) + stop][column] or ""

    return variety.result(read) or {"rows": 0}


def dropped_reasons(path: Path) -> dict[str, int]:
    """Rows of a ``dropped.jsonl`` by the kind of their reason (the text before a colon), most frequent first."""
    reasons: Counter[str] = Counter()
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    reasons[str(json.loads(line)["reason"]).partition(":")[0][:80]] += 1
                except (ValueError, KeyError, TypeError):
                    reasons["(line cannot be read)"] += 1
    return dict(reasons.most_common(20))


class Repeats:
    """Counts of equal texts by their hashes, eight bytes a text."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, texts: Sequence[str]) -> None:
        """Count each text."""
        # differs from process to process, which does not matter here, and is faster than any digest
        # (https://docs.python.org/3/reference/datamodel.html#object.__hash__)
        self._hashes.extend(map(hash, texts))

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences of every distinct text and the place of its first, most frequent first, then by place."""
        _, first, counts = np.unique(np.frombuffer(self._hashes, np.int64), return_index=True, return_counts=True)
        order = np.lexsort((first, -counts))
        return counts[order], first[order]


class PromptVariety:
    """Statistics of prompts while they pass; ``expected`` is about how many will."""

    def __init__(self, expected: int) -> None:
        self.lengths = RunningHistogram(1, 2048)
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
        # every n-th prompt of all, wherever the batches begin
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
