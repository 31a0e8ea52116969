"""A response set in numbers: what became of its rows, lengths, and how many responses betray a reader."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.naming import ResponseName
from src.common.paths import data_root, indexes_filtered_dir, responses_dir
from src.corpus.stages.answer_filter import LengthLimits
from src.corpus.survey.reading import column_batches
from src.corpus.survey.tally import Tally
from src.dataset.tables import KEY, native_splits, open_split
from src.prompts.betrayal import betraying_spans
from src.prompts.choice import PromptOrigin, origin_of_run
from src.prompts.texts import Prompts, known_prompt_sets, load_prompts
from src.prompts.thoughts import split_response

ANSWERS = ("llm_answer_with_context", "llm_answer_no_context")
PARTS = ("thoughts", "answer")
EXAMPLES = 2
"""Rows remembered for each betraying phrase."""


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


def prompts_of(folder: Path) -> PromptOrigin:
    """The prompts that a response set was made with, by its run record."""
    try:
        return origin_of_run(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError):
        return origin_of_run({})


def prompt_set_of(folder: Path) -> str:
    """Name of the shipped set whose betraying phrases are looked for; ``full`` unless the record names another."""
    name = prompts_of(folder).name
    return name if name in known_prompt_sets() else "full"


class Examples:
    """A few rows for every phrase, drawn by hash: the same ones in any order of rows."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.rows: dict[str, list[tuple[int, str, int]]] = {}

    def add(self, phrase: str, split: str, key: int) -> None:
        """Offer a row as an example of a phrase."""
        mark = f"{self._seed}/{phrase}/{split}/{key}".encode()
        draw = int.from_bytes(hashlib.blake2b(mark, digest_size=6).digest(), "big")
        held = self.rows.setdefault(phrase, [])
        if len(held) < EXAMPLES:
            heapq.heappush(held, (draw, split, key))
        else:
            heapq.heappushpop(held, (draw, split, key))

    def of(self, phrase: str) -> list[tuple[str, int]]:
        """Split and key of the rows."""
        return [(split, key) for _, split, key in sorted(self.rows.get(phrase, []))]


class Betrayal:
    """Counts of betraying thoughts and answers, and of their words."""

    def __init__(self, prompts: Prompts, seed: int) -> None:
        self.prompts = prompts
        self.examples = Examples(seed)
        self._texts: Counter[str] = Counter()
        self._betraying: Counter[str] = Counter()
        self._words: dict[str, Counter[str]] = {}

    def add(self, thoughts: str, answer: str, split: str, key: int) -> None:
        """Count a sound response."""
        anywhere = False
        for part, text in zip(PARTS, (thoughts, answer), strict=True):
            if not text:
                continue
            self._texts[part] += 1
            words = {span.words for span in betraying_spans(text, self.prompts)}
            self._betraying[part] += bool(words)
            anywhere |= bool(words)
            for phrase in words:
                self._words.setdefault(phrase, Counter())[part] += 1
                self.examples.add(phrase, split, key)
        self._texts["response"] += 1
        self._betraying["response"] += anywhere

    def result(self) -> dict[str, Any]:
        """``rates``: texts and betraying ones by part; ``phrases``: texts that hold each, most frequent first."""
        ordered = sorted(self._words.items(), key=lambda item: (-item[1].total(), item[0]))
        return {
            "rates": {part: {"n": self._texts[part], "betraying": self._betraying[part]}
                      for part in ("response", *PARTS)},
            "phrases": [{"words": words, **{part: counts[part] for part in PARTS}} for words, counts in ordered],
        }  # fmt: skip


def measure_responses(folder_name: str, limit: int | None, seed: int) -> tuple[dict[str, Any], Betrayal]:
    """Numbers of one response set, and its betraying rows. Texts of sound rows count; statuses are those of all rows.

    Raises :class:`UserError` if the set is not there or has no responses.
    """
    name = ResponseName.parse(folder_name)
    folder = responses_dir(name.model, folder_name)
    prompt_set = prompt_set_of(folder)
    betrayal = Betrayal(load_prompts(prompt_set), seed)
    first = open_split(folder, native_splits(folder)[0], f"responses {folder_name}")
    answers = [column for column in ANSWERS if column in first.column_names]
    if not answers:
        raise UserError(
            f"responses {folder_name} have none of the columns {', '.join(ANSWERS)}; they have "
            f"{', '.join(first.column_names)}"
        )
    light = _light_columns(folder, folder_name, "num_tokens" in first.column_names)
    texts = _texts(folder, folder_name, answers, limit, betrayal)
    unit = "tokens" if light["tokens"].n else "words"
    lengths = light["tokens"] if unit == "tokens" else texts.pop("words")
    texts.pop("words", None)
    result = {
        "folder": folder_name, "model": name.model, "rephrased": name.rephrased, "checked": name.checked,
        "prompt_set": prompt_set, "prompts": str(prompts_of(folder)), "rows": light["rows"],
        "status": light["status"],
        "finish_reason": light["finish_reason"], "attempts": light["attempts"],
        "unit": unit, "lengths": lengths.result(),
        "windows": _windows(name, folder_name, lengths) if unit == "tokens" else [],
        "filter": _filter_counts(name, folder_name), **texts, **betrayal.result(),
    }  # fmt: skip
    return result, betrayal


def _light_columns(folder: Path, folder_name: str, has_tokens: bool) -> dict[str, Any]:
    """Statuses and token counts of all rows; lengths of the sound ones."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("status", "finish_reason", "attempts")}
    tokens, rows = Tally(1, 32768), 0
    for split in native_splits(folder):
        rows += len(open_split(folder, split, folder_name))
        columns = ["status", "finish_reason", "attempts", "num_tokens"]
        for _, batch in column_batches(folder, split, columns, None, f"{folder_name}: rows"):
            sound = [status == "ok" for status in batch["status"]] if "status" in batch else None
            for name, counter in counts.items():
                counter.update(str(value) for value in batch.get(name, ()) if value not in (None, ""))
            if has_tokens:
                found = batch["num_tokens"]
                tokens.add([n for place, n in enumerate(found) if n is not None and (sound is None or sound[place])])
    return {"rows": rows, "tokens": tokens, **{name: dict(counter.most_common()) for name, counter in counts.items()}}


def _texts(
    folder: Path, folder_name: str, answers: list[str], limit: int | None, betrayal: Betrayal
) -> dict[str, Any]:
    """Lengths in words and forms of the sound responses."""
    forms: Counter[str] = Counter()
    words = {part: Tally(1, 16384) for part in ("response", *PARTS)}
    read = 0
    for split in native_splits(folder):
        for _, batch in column_batches(folder, split, [KEY, "status", *answers], limit, f"{folder_name}: texts"):
            counts: dict[str, list[int]] = {part: [] for part in words}
            for place, key in enumerate(batch[KEY]):
                text = next((batch[column][place] for column in answers if batch[column][place]), "")
                read += 1
                if batch.get("status", ["ok"] * (place + 1))[place] != "ok":
                    continue
                parts = split_response(text, inside_thoughts=True)
                forms[parts.status] += 1
                betrayal.add(parts.thoughts, parts.answer, split, key)
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


def _filter_file(name: ResponseName, folder_name: str) -> dict[str, Any] | None:
    path = indexes_filtered_dir(name.base) / name.model / folder_name / "filter.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _filter_counts(name: ResponseName, folder_name: str) -> dict[str, Any] | None:
    """What the answer filter kept, by split; None if it has not run."""
    found = _filter_file(name, folder_name)
    return found["splits"] if found else None


def _windows(name: ResponseName, folder_name: str, lengths: Tally) -> list[dict[str, Any]]:
    """The published window of tokens, and the answer filter's where it was another one."""
    published, found = LengthLimits(), _filter_file(name, folder_name)
    windows = {"published window": published}
    limits = LengthLimits(**found["limits"]) if found and found.get("limits") else published
    if limits != published:
        windows["answer filter"] = limits
    return [
        {"title": title, "low": each.tokens_min, "high": each.tokens_max,
         "inside": lengths.between(each.tokens_min, each.tokens_max)}
        for title, each in windows.items()
    ]  # fmt: skip
