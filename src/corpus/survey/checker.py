"""What the checker said of a set's responses, attempt by attempt, beside what the rules on words say of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.common.json_lines import read_json_lines
from src.common.naming import ResponseName
from src.common.paths import responses_dir
from src.corpus.stages.journal import input_digest
from src.dataset.tables import KEY, find_rows
from src.prompts.betrayal import betrays
from src.prompts.texts import Prompts

_TEXTS = ("rephrase", "generate")
_BATCH = 5_000
_AGREEMENT = {
    (True, True): "both",
    (True, False): "rules_only",
    (False, True): "checker_only",
    (False, False): "neither",
}
"""Names of what rules and checker found."""


def measure_checker(folder_name: str, prompts: Prompts) -> list[dict[str, Any]]:
    """Of every attempt: responses checked, betraying ones, and how both judges agree; empty for an unchecked set.

    ``both``, ``rules_only``, ``checker_only``, ``neither`` count the checked responses whose text is still in the
    journal that the verdict was given on.
    """
    name = ResponseName.parse(folder_name)
    folder = responses_dir(name.model, folder_name)
    plain = responses_dir(name.model, ResponseName(name.base, name.model, name.max_tokens).format())
    attempts: dict[int, dict[str, int]] = {}
    for journal in sorted(folder.glob("journal/*/check-*")):
        number, split = int(journal.name.rpartition("-")[2]), journal.parent.name
        counts = attempts.setdefault(number, dict.fromkeys(("checked", "betraying", *_AGREEMENT.values()), 0))
        keys, inputs, bad = _verdicts(journal)
        counts["checked"] += keys.size
        counts["betraying"] += int(bad.sum())
        for records in _batches(_checked_texts([folder, plain], split, number)):
            places = find_rows(keys, np.array([record[KEY] for record in records], dtype=np.int64))
            for record, place in zip(records, places.tolist(), strict=True):
                text = str(record.get("text", ""))
                if place >= 0 and inputs[place] == input_digest(text):
                    counts[_AGREEMENT[betrays(text, prompts), bool(bad[place])]] += 1
                    inputs[place] = -1  # a text that was written twice counts once
    return [{"attempt": number + 1, **counts} for number, counts in sorted(attempts.items())]


def _verdicts(journal: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, digests of the texts and whether they betray, ``(rows,)`` each; the newest verdict on a row counts."""
    keys, inputs, bad = array("q"), array("q"), array("b")
    for record in _records(journal):
        keys.append(record[KEY])
        inputs.append(record["input"])
        bad.append(not record.get("ok"))
    backwards = np.array(keys, dtype=np.int64)[::-1]
    found, places = np.unique(backwards, return_index=True)
    return found, np.array(inputs, dtype=np.int64)[::-1][places], np.array(bad, dtype=bool)[::-1][places]


def _checked_texts(folders: list[Path], split: str, attempt: int) -> Iterator[dict[str, Any]]:
    """Records of the stage whose texts were checked: rewriting if there was any, else generation."""
    for stage in _TEXTS:
        for folder in folders:
            journal = folder / "journal" / split / f"{stage}-{attempt}"
            if journal.is_dir():
                yield from _records(journal)
                return


def _batches(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _records(journal: Path) -> Iterator[dict[str, Any]]:
    """Records of all writers; a last line that a killed writer left is passed over."""
    for path in sorted(journal.glob("part-*.jsonl")):
        for record in read_json_lines(path, skip_broken=True):
            if isinstance(record, dict) and KEY in record and "input" in record:
                yield record
