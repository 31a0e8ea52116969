"""A response set in numbers: statuses, lengths, responses that leak their text source, the checker's verdicts."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import read_record
from src.common.files import read_json_lines
from src.common.naming import ResponseName
from src.common.paths import data_root, indexes_filtered_dir, responses_dir
from src.corpus.analysis.histogram import BATCH, RunningHistogram, column_batches
from src.corpus.targets.answer_filter import LengthLimits
from src.dataset.row_log import input_digest
from src.dataset.tables import KEY, find_rows, native_splits, open_split
from src.prompts.leakage import leak_spans, leaks_text_source
from src.prompts.prompt_sets import PromptOrigin, origin_of_run
from src.prompts.reasoning import THINKING, Reasoning, split_response
from src.prompts.texts import Prompts, known_prompt_sets, load_prompts

ANSWERS = ("llm_answer_with_context", "llm_answer_no_context")
PARTS = ("thoughts", "answer")
EXAMPLES = 2
"""Rows kept for each leaking phrase."""
_TEXT_STAGES = ("rephrase", "generate")
_AGREEMENT = {
    (True, True): "both",
    (True, False): "rules_only",
    (False, True): "checker_only",
    (False, False): "neither",
}
"""Names of what rules and checker found."""


def response_folders(name: str) -> list[str]:
    """Response sets of a corpus, of all models: the plain ones first, then by name."""
    found = []
    for folder in sorted((data_root() / "responses").glob("*/*")):
        if (folder / "dataset_dict.json").is_file() and folder.name.startswith(f"{name}_"):
            try:
                parsed = ResponseName.parse(folder.name)
            except UserError:
                continue
            if parsed.base == name and parsed.model == folder.parent.name:
                found.append((parsed.rephrased, parsed.checked, folder.name))
    return [folder for *_, folder in sorted(found)]


def _prompts_of(folder: Path) -> tuple[PromptOrigin, str]:
    """Prompts that a set was made with, by its run record, and the shipped set whose leaking phrases are searched."""
    try:
        origin = origin_of_run(read_record(folder))
    except (AttributeError, TypeError):  # a record of another program may have anything in these entries
        origin = origin_of_run({})
    return origin, origin.name if origin.name in known_prompt_sets() else "full"


def reasoning_of(folder: Path) -> Reasoning:
    """How the responses of a set are built, by its run record."""
    return Reasoning.of_record(read_record(folder))


class TextLeak:
    """Counts of leaking thoughts and answers, and of their words; a few rows for every phrase."""

    def __init__(self, prompts: Prompts, seed: int, reasoning: Reasoning = THINKING) -> None:
        self.prompts, self.reasoning, self._seed = prompts, reasoning, seed
        self._drawn: dict[str, list[tuple[int, str, int]]] = {}
        self._texts: Counter[str] = Counter()
        self._leaking: Counter[str] = Counter()
        self._words: dict[str, Counter[str]] = {}

    def add(self, thoughts: str, answer: str, split: str, key: int) -> None:
        """Count a valid response."""
        anywhere = False
        for part, text in zip(PARTS, (thoughts, answer), strict=True):
            if not text:
                continue
            self._texts[part] += 1
            words = {span.words for span in leak_spans(text, self.prompts)}
            self._leaking[part] += bool(words)
            anywhere |= bool(words)
            for phrase in words:
                self._words.setdefault(phrase, Counter())[part] += 1
                # drawn by hash: the same rows in whichever order they are read
                mark = f"{self._seed}/{phrase}/{split}/{key}".encode()
                draw = int.from_bytes(hashlib.blake2b(mark, digest_size=6).digest(), "big")
                self._drawn[phrase] = nlargest(EXAMPLES, {*self._drawn.get(phrase, ()), (draw, split, key)})
        self._texts["response"] += 1
        self._leaking["response"] += anywhere

    def examples(self, phrase: str) -> list[tuple[str, int]]:
        """Split and key of a few rows that contain a phrase."""
        return [(split, key) for _, split, key in sorted(self._drawn.get(phrase, ()))]

    def result(self) -> dict[str, Any]:
        """``rates``: texts and leaking ones by part; ``phrases``: texts that contain each, most frequent first."""
        ordered = sorted(self._words.items(), key=lambda item: (-item[1].total(), item[0]))
        return {
            "rates": {part: {"n": self._texts[part], "betraying": self._leaking[part]}
                      for part in ("response", *PARTS)},
            "phrases": [{"words": words, **{part: counts[part] for part in PARTS}} for words, counts in ordered],
        }  # fmt: skip


def measure_responses(folder_name: str, limit: int | None, seed: int) -> tuple[dict[str, Any], TextLeak]:
    """Numbers of one response set, and its leaking rows. Texts of valid rows count; statuses are those of all rows.

    Raises :class:`UserError` if the set is not there or has no responses.
    """
    name = ResponseName.parse(folder_name)
    folder = responses_dir(name.model, folder_name)
    origin, prompt_set = _prompts_of(folder)
    leak = TextLeak(load_prompts(prompt_set), seed, reasoning_of(folder))
    first = open_split(folder, native_splits(folder)[0], f"responses {folder_name}")
    answers = [column for column in ANSWERS if column in first.column_names]
    if not answers:
        raise UserError(
            f"responses {folder_name} have none of the columns {', '.join(ANSWERS)}; they have "
            f"{', '.join(first.column_names)}"
        )
    light = _light_columns(folder, folder_name, "num_tokens" in first.column_names)
    texts = _texts(folder, folder_name, answers, limit, leak)
    unit = "tokens" if light["tokens"].n else "words"
    words = texts.pop("words")
    lengths = light["tokens"] if unit == "tokens" else words
    filtered = _answer_filter(name, folder_name)
    result: dict[str, Any] = {
        "folder": folder_name, "model": name.model, "rephrased": name.rephrased, "checked": name.checked,
        "prompt_set": prompt_set, "prompts": str(origin), "rows": light["rows"],
        "status": light["status"],
        "finish_reason": light["finish_reason"], "attempts": light["attempts"],
        "unit": unit, "lengths": lengths.result(),
        "windows": _windows(filtered, lengths) if unit == "tokens" else [],
        "filter": filtered.get("splits"), **texts, **leak.result(),
    }  # fmt: skip
    return result, leak


def _light_columns(folder: Path, folder_name: str, has_tokens: bool) -> dict[str, Any]:
    """Statuses and token counts of all rows; lengths of the valid ones."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("status", "finish_reason", "attempts")}
    tokens, rows = RunningHistogram(1, 32768), 0
    for split in native_splits(folder):
        rows += len(open_split(folder, split, folder_name))
        columns = ["status", "finish_reason", "attempts", "num_tokens"]
        for _, batch in column_batches(folder, split, columns, None, f"{folder_name}: rows"):
            valid = [status == "ok" for status in batch["status"]] if "status" in batch else None
            for name, counter in counts.items():
                counter.update(str(value) for value in batch.get(name, ()) if value not in (None, ""))
            if has_tokens:
                found = batch["num_tokens"]
                tokens.add([n for place, n in enumerate(found) if n is not None and (valid is None or valid[place])])
    return {"rows": rows, "tokens": tokens, **{name: dict(counter.most_common()) for name, counter in counts.items()}}


def _texts(folder: Path, folder_name: str, answers: list[str], limit: int | None, leak: TextLeak) -> dict[str, Any]:
    """Lengths in words and forms of the valid responses."""
    forms: Counter[str] = Counter()
    words = {part: RunningHistogram(1, 16384) for part in ("response", *PARTS)}
    read = 0
    for split in native_splits(folder):
        for _, batch in column_batches(folder, split, [KEY, "status", *answers], limit, f"{folder_name}: texts"):
            counts: dict[str, list[int]] = {part: [] for part in words}
            for place, key in enumerate(batch[KEY]):
                text = next((batch[column][place] for column in answers if batch[column][place]), "")
                read += 1
                if batch.get("status", ["ok"] * (place + 1))[place] != "ok":
                    continue
                parts = split_response(text, leak.reasoning)
                forms[parts.status] += 1
                leak.add(parts.thoughts, parts.answer, split, key)
                counts["response"].append(len(text.split()))
                for part, piece in zip(PARTS, parts, strict=True):
                    if piece:
                        counts[part].append(len(piece.split()))
            for part, found in counts.items():
                words[part].add(found)
    return {
        "texts_read": read,
        "forms": dict(forms.most_common()),
        "words": words["response"],
        "thoughts_words": words["thoughts"].result(),
        "answer_words": words["answer"].result(),
    }


def _answer_filter(name: ResponseName, folder_name: str) -> dict[str, Any]:
    """Limits and counts of the answer filter; empty if it has not run."""
    path = indexes_filtered_dir(name.base) / name.model / folder_name / "filter.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _windows(filtered: dict[str, Any], lengths: RunningHistogram) -> list[dict[str, Any]]:
    """The published window of tokens, and the answer filter's where it was another one."""
    published = LengthLimits()
    windows = {"published window": published}
    limits = LengthLimits(**filtered["limits"]) if filtered.get("limits") else published
    if limits != published:
        windows["answer filter"] = limits
    return [
        {"title": title, "low": each.tokens_min, "high": each.tokens_max,
         "inside": lengths.between(each.tokens_min, each.tokens_max)}
        for title, each in windows.items()
    ]  # fmt: skip


def measure_checker(folder_name: str, prompts: Prompts) -> list[dict[str, Any]]:
    """Of every attempt: responses checked, leaking ones, and how rules and checker agree; empty for an unchecked set.

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
        texts = _checked_texts([folder, plain], split, number)
        while records := list(islice(texts, BATCH)):
            places = find_rows(keys, np.array([record[KEY] for record in records], dtype=np.int64))
            for record, place in zip(records, places.tolist(), strict=True):
                text = str(record.get("text", ""))
                # a row that was answered again after its check has another text than the checker read
                if place >= 0 and inputs[place] == input_digest(text):
                    counts[_AGREEMENT[leaks_text_source(text, prompts), bool(bad[place])]] += 1
                    inputs[place] = -1  # a text that was written twice counts once
    return [{"attempt": number + 1, **counts} for number, counts in sorted(attempts.items())]


def _verdicts(journal: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, digests of the texts and whether they leak, ``(rows,)`` each; the newest verdict on a row counts."""
    keys, inputs, bad = array("q"), array("q"), array("b")
    for record in _records(journal):
        keys.append(record[KEY])
        inputs.append(record["input"])
        bad.append(not record.get("ok"))
    # np.unique gives the first place of a key: of the reversed lists, that of the newest verdict
    backwards = np.array(keys, dtype=np.int64)[::-1]
    found, places = np.unique(backwards, return_index=True)
    return found, np.array(inputs, dtype=np.int64)[::-1][places], np.array(bad, dtype=bool)[::-1][places]


def _checked_texts(folders: list[Path], split: str, attempt: int) -> Iterator[dict[str, Any]]:
    """Records of the stage whose texts were checked: rewriting if there was any, else generation."""
    for stage in _TEXT_STAGES:
        for folder in folders:
            journal = folder / "journal" / split / f"{stage}-{attempt}"
            if journal.is_dir():
                yield from _records(journal)
                return


def _records(journal: Path) -> Iterator[dict[str, Any]]:
    """Records of all writers, without the last line that a killed writer left."""
    for path in sorted(journal.glob("part-*.jsonl")):
        for record in read_json_lines(path, skip_broken=True):
            if isinstance(record, dict) and KEY in record and "input" in record:
                yield record
