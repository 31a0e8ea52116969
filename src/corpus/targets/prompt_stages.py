"""Stages that write prompts for described clips and check them, and the choice of one prompt per row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.paths import raw_dir
from src.common.seeds import row_seed
from src.corpus.targets.llm_settings import PromptSettings
from src.corpus.targets.prompt_list import read_prompt_list, read_verdicts
from src.corpus.targets.response_stages import stage_fingerprint
from src.corpus.targets.stage_job import Stage, StageJob, StageRecord, TextTable, text_fingerprint
from src.dataset.tables import column_values
from src.prompts.chat import ChatTokenizer
from src.prompts.find_reasoning import find_reasoning
from src.prompts.messages import Messages, prompt_checker_messages, writer_messages
from src.prompts.texts import Prompts

if TYPE_CHECKING:
    from src.inference.types import Result

DESCRIPTION = "audio_description"
WRITE, CHECK = 0, 1
NO_DESCRIPTION, NONE_GOOD, ALL_MARKED = "no_description", "none_good", "all_marked"
_EXAMPLE_CHARACTERS = 600  # a long description would take the writer's attention, and most of its context
_CHAT_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class PromptRow:
    """Prompt of a row; without one, ``status`` says why. ``attempts`` is how many it took."""

    dataset_index: int
    description: str
    prompt: str
    status: str
    attempts: int


class PromptChoice:
    """Rows of a corpus split, the requests for their prompts, and the prompt that is chosen for each row.

    Rows with the same description and the same style share one request, that of the first of them (their *leader*).

    Attributes:
        job: writes and checks the prompts of the leaders, one for each distinct description and style.
        examples: descriptions of the corpus that the writer is shown.
        leaders: int64 ``(rows,)``, the row that makes the request for a row; -1 for rows without a description.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        settings: PromptSettings,
        prompts: Prompts,
        work_folder: Path,
        examples: Sequence[str],
        only: int | None = None,
    ) -> None:
        """Open the raw set. Raises :class:`UserError` if it is missing or lacks columns."""
        self._texts = open_descriptions(dataset, split, settings.limit, only)
        self._seed = f"{dataset}/{split}"
        self._settings, self._prompts, self.examples = settings, prompts, examples
        self.keys = self._texts.keys
        self.leaders = self._find_leaders()
        own = np.flatnonzero(self.leaders == np.arange(self.keys.size))
        self.job = StageJob(dataset, split, self._texts, self._stages(), work_folder / split, settings.seed, rows=own)

    def rows(self) -> Iterator[PromptRow]:
        """All rows, each with the prompt chosen for it or the reason why it has none."""
        for row, leader in enumerate(self.leaders.tolist()):
            key = int(self.keys[row])
            if leader < 0:
                yield PromptRow(key, "", "", NO_DESCRIPTION, 0)
                continue
            (description,), attempt = self._texts[row], int(self.job.passed[leader])
            if attempt < 0:  # the last attempt says why: its check, if it got that far
                last = self.job.attempts - 1
                stage = CHECK if self.job.log(WRITE, last).ok[leader] else WRITE
                status = self.job.log(stage, last).read(leader)["status"]
                failure = f"{self.job.stages[stage].name}:{status}"
                yield PromptRow(key, description, "", failure, self.job.attempts)
                continue
            candidates = self.job.log(WRITE, attempt).read(leader)["prompts"]
            good = self.job.log(CHECK, attempt).read(leader)["good"]
            # each row's own draw: rows that share a request still get different prompts
            chosen = candidates[good[int(self._draw(row)[1] * len(good))]]
            yield PromptRow(key, description, chosen, "ok", attempt + 1)

    def candidate_counts(self) -> tuple[int, int]:
        """Written prompts and good ones among them, over the requests that passed."""
        written = good = 0
        for leader in np.flatnonzero(self.job.passed >= 0).tolist():
            attempt = int(self.job.passed[leader])
            written += len(self.job.log(WRITE, attempt).read(leader)["prompts"])
            good += len(self.job.log(CHECK, attempt).read(leader)["good"])
        return written, good

    def _stages(self) -> list[Stage]:
        settings, prompts = self._settings, self._prompts
        options = settings.sampling(max_thinking_tokens=settings.max_thinking_tokens)
        options |= {"budget_closing": prompts.budget_closing}
        tags = (prompts.description_open, prompts.description_close)

        def write(row: int, inputs: Sequence[str]) -> tuple[Messages, None]:
            return writer_messages(prompts, self.examples, *inputs), None

        def written(result: Result, needed: None, tokenizer: ChatTokenizer) -> dict[str, Any]:
            """The prompts that the writer listed; its whole output only if they cannot be used."""
            form = find_reasoning(tokenizer).format
            listed, status = read_prompt_list(result.text, form)
            # a tag in a prompt would be taken for one of the conversation's own
            usable = [each for each in listed if not any(tag in each for tag in (*_CHAT_TAGS, *form.marks, *tags))]
            if listed and not usable:
                status = ALL_MARKED
            return _fields(status, result, prompts=usable)

        def check(row: int, inputs: Sequence[str]) -> tuple[Messages, int]:
            description, *candidates = inputs
            return prompt_checker_messages(prompts, description, candidates), len(candidates)

        def checked(result: Result, count: int, tokenizer: ChatTokenizer) -> dict[str, Any]:
            """Which prompts are good, by their place."""
            good, status = read_verdicts(result.text, count, find_reasoning(tokenizer).format)
            if status == "ok" and not any(good):
                status = NONE_GOOD
            return _fields(status, result, good=[place for place, fine in enumerate(good) if fine])

        def description_and_style(row: int, previous: StageRecord) -> tuple[str, str]:
            return self._texts[row][0], self._draw(row)[0]

        def description_and_prompts(row: int, previous: StageRecord) -> tuple[str, ...]:
            return self._texts[row][0], *previous["prompts"]

        shown = text_fingerprint(prompts.writer_system, *prompts.writer_styles, *tags)
        writer = stage_fingerprint(settings, settings.llm, options, prompt_texts=shown, examples=settings.examples)
        shown = text_fingerprint(prompts.prompt_checker_system, *tags)
        checker = stage_fingerprint(settings, settings.checker, options, prompt_texts=shown)
        return [
            Stage("write", settings.llm, options, writer, description_and_style, write, written),
            Stage("check", settings.checker, options, checker, description_and_prompts, check, checked),
        ]

    def _draw(self, row: int) -> tuple[str, float]:
        """The style of a row's prompt, and its place in [0, 1) among the good ones."""
        # a seed of its own for each row: a limit, another order or other rows do not change the draw
        rng = random.Random(row_seed(self._settings.seed, f"{self._seed}/{self.keys[row]}/prompt"))
        return rng.choice(self._prompts.writer_styles), rng.random()

    def _find_leaders(self) -> np.ndarray:
        marks = np.empty(self.keys.size, dtype=np.uint64)  # 64 bits: no collision among millions of rows
        blank = np.zeros(self.keys.size, dtype=bool)
        for row, text in enumerate(islice(column_values(self._texts.table, DESCRIPTION), self.keys.size)):
            blank[row] = not (text or "").strip()
            content = f"{self._draw(row)[0]}\x00{text}".encode()
            marks[row] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        # return_index is the first place of a mark, so that a leader does not depend on later rows (a larger limit)
        _, first, place = np.unique(marks, return_index=True, return_inverse=True)
        return np.where(blank, -1, first[place])


def open_descriptions(dataset: str, split: str, limit: int | None = None, only: int | None = None) -> TextTable:
    """Keys and descriptions of a raw split. Raises :class:`UserError` if the split or a column is missing."""
    hint = "prompts are written from descriptions, and spoken instructions need none"
    return TextTable(f"raw set {dataset}", raw_dir(dataset), split, (DESCRIPTION,), hint, limit, only)


def draw_examples(dataset: str, splits: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Up to ``count`` different descriptions from anywhere in a corpus, long ones shortened; the same for a seed."""
    from datasets import concatenate_datasets

    table = concatenate_datasets([open_descriptions(dataset, split).table for split in splits])
    rng = random.Random(row_seed(seed, f"{dataset}/examples"))
    found: dict[str, None] = {}
    # more are drawn than are shown: some are empty or occur twice
    for row in rng.sample(range(len(table)), min(len(table), 8 * count)):
        text = " ".join((table[row][DESCRIPTION] or "").split())
        if text and len(found) < count:
            found[text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + " …"] = None
    return tuple(found)


def _fields(status: str, result: Result, **fields: Any) -> dict[str, Any]:
    if result.error:
        status, fields["error"] = "error", str(result.error)
    if status != "ok":  # outputs that could be read are kept as what was read from them; these say what went wrong
        fields |= {"raw": result.text, "finish_reason": result.finish_reason or ""}
    return {"status": status, **fields}
