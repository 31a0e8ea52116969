"""The same rows before and after rephrasing: sentences that leaked the text source, and samples with audio."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.roots import roots_of, stored_cell
from src.common.paths import raw_dir
from src.corpus.analysis.raw_set import DESCRIPTIONS, PROMPTS
from src.corpus.analysis.response_sets import ANSWERS, PARTS, TextLeak, reasoning_of
from src.dataset.tables import find_rows, native_splits, open_split, read_keys
from src.prompts.leakage import leak_spans
from src.prompts.reasoning import split_response

Place = tuple[str, int]
"""Split and ``dataset_index`` of a row."""
MOST_PHRASES = 12
_LONGEST = 320


def rows_at(folder: Path, places: Iterable[Place], columns: Sequence[str], label: str) -> dict[Place, dict[str, Any]]:
    """The rows at ``places``, with those of the ``columns`` that the set has; rows that it lacks are left out."""
    found: dict[Place, dict[str, Any]] = {}
    wanted: dict[str, list[int]] = {}
    for split, key in places:
        wanted.setdefault(split, []).append(key)
    for split, keys in wanted.items():
        stored = _stored_split(folder, split)
        if stored is None:
            continue
        table = open_split(folder, stored, label)
        rows = find_rows(read_keys(table, label), np.array(keys, dtype=np.int64))
        narrow = table.select_columns([name for name in dict.fromkeys(columns) if name in table.column_names])
        if "audio" in narrow.column_names:
            from datasets import Audio

            if isinstance(narrow.features["audio"], Audio):
                narrow = narrow.cast_column("audio", Audio(decode=False))
        roots = roots_of(table)
        for key, row in zip(keys, rows.tolist(), strict=True):
            if row >= 0:
                cells = found[split, key] = narrow[row]
                if "audio" in cells:
                    cells["audio"] = stored_cell(cells["audio"], roots)
    return found


def _stored_split(folder: Path, split: str) -> str | None:
    """The split of a set that has the rows of ``split``: one of the same name, else ``train``, if there is one."""
    return next((name for name in (split, "train") if name in native_splits(folder)), None)


def response_text(row: dict[str, Any] | None) -> str:
    """The response of a row of a response set."""
    return next((row[column] for column in ANSWERS if row.get(column)), "") if row else ""


def phrase_examples(
    plain: tuple[Path, TextLeak, dict[str, Any]], final: tuple[Path, TextLeak, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Sentences with the most frequent leaking phrases, each with the most similar one of the other set.

    ``before``: phrases of the plain set; ``after``: those that rephrasing left or made.
    """
    wanted: dict[str, list[tuple[str, Place]]] = {}
    for side, (_, leak, numbers) in (("before", plain), ("after", final)):
        for phrase in numbers["phrases"][:MOST_PHRASES]:
            places = leak.examples(phrase["words"])
            wanted.setdefault(side, []).extend((phrase["words"], place) for place in places)
    asked = {place for found in wanted.values() for _, place in found}
    texts = [rows_at(folder, asked, [*ANSWERS, "prompt"], folder.name) for folder, _, _ in (plain, final)]
    examples: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    for side, found in wanted.items():
        here, there = (0, 1) if side == "before" else (1, 0)
        for words, place in found:
            own, other = (response_text(texts[index].get(place)) for index in (here, there))
            part, sentence = _sentence_with(words, own, plain[1])
            if not sentence:
                continue
            like = _closest(sentence, getattr(split_response(other, plain[1].reasoning), part))
            pair = (sentence, like) if side == "before" else (like, sentence)
            examples[side].append(
                {"words": words, "part": part, "split": place[0], "key": place[1],
                 "before": pair[0], "after": pair[1]}
            )  # fmt: skip
    return examples


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]


def _sentence_with(words: str, text: str, leak: TextLeak) -> tuple[str, str]:
    """Part and sentence of a response that leaks the text source with these words."""
    for part, piece in zip(PARTS, split_response(text, leak.reasoning), strict=True):
        for sentence in _sentences(piece):
            if any(span.words == words for span in leak_spans(sentence, leak.prompts)):
                return part, _cut(sentence)
    return "", ""


def _closest(sentence: str, text: str) -> str:
    """The sentence of ``text`` that is most similar to ``sentence``."""
    # rewriting moves sentences, so the one at the same place is rarely the one that was rewritten
    ratios = [(difflib.SequenceMatcher(None, sentence, other).ratio(), other) for other in _sentences(text)]
    return _cut(max(ratios, key=lambda pair: pair[0])[1]) if ratios else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def draw_samples(
    name: str, sets: Sequence[Path], prompts: Path | None, count: int, seed: int
) -> list[dict[str, Any]]:
    """``count`` rows of a corpus with audio, description, prompt, and responses from every set (plain, final).

    Drawn from the rows that all sets have; every corpus has its own random generator of the seed.
    """
    columns = ["audio", "duration", *DESCRIPTIONS, *PROMPTS, "context"]
    common = _common_keys(name, [*sets, *([prompts] if prompts else [])])
    ends = np.cumsum([keys.size for keys in common.values()])
    # from all splits as if they were one, without a list of all keys
    drawn = random.Random(f"{seed}/{name}").sample(range(int(ends[-1])), min(count, int(ends[-1])))
    chosen = []
    for number in sorted(drawn):
        part = int(np.searchsorted(ends, number, side="right"))
        split = list(common)[part]
        chosen.append((split, int(common[split][number - int(ends[part])])))
    raw = rows_at(raw_dir(name), chosen, columns, f"raw set {name}")
    asked = rows_at(prompts, chosen, ["prompt"], f"prompts of {name}") if prompts else {}
    answered = [rows_at(folder, chosen, [*ANSWERS, "prompt", "status"], folder.name) for folder in sets]
    samples = []
    for place in chosen:
        row = raw.get(place)
        if row is None:
            continue
        replies = [{"folder": folder.name, "text": response_text(found.get(place)),
                    "status": (found.get(place) or {}).get("status", "ok"), **reasoning_of(folder).record()}
                   for folder, found in zip(sets, answered, strict=True)]  # fmt: skip
        texts = [asked.get(place, {}), *(found.get(place, {}) for found in answered), row]
        samples.append(
            {
                "split": place[0], "key": place[1], "seconds": row.get("duration"), "audio": row.get("audio"),
                "description": next((row[column] for column in DESCRIPTIONS if row.get(column)), ""),
                "prompt": next((text[column] for text in texts for column in PROMPTS if text.get(column)), ""),
                "replies": replies,
            }
        )  # fmt: skip
    return samples


def _common_keys(name: str, folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """By split the keys of the raw set that all ``folders`` have; all of its keys where they share none."""
    everything, common = {}, {}
    for split in native_splits(raw_dir(name)):
        keys = read_keys(open_split(raw_dir(name), split, f"raw set {name}"), f"raw set {name}")
        kept = np.ones(keys.size, dtype=bool)
        for folder in folders:
            stored = _stored_split(folder, split)
            if stored is not None:
                kept &= find_rows(read_keys(open_split(folder, stored, folder.name), folder.name), keys) >= 0
        everything[split], common[split] = keys, keys[kept]
    return common if any(keys.size for keys in common.values()) else everything
