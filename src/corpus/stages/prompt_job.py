"""The rows of one corpus split on their way through writing and checking prompts, and the choice of one a row."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from src.common.errors import UserError
from src.common.seeds import row_seed
from src.corpus.stages.journal import Journal, input_digest
from src.corpus.stages.prompt_list import read_prompt_list, read_verdicts
from src.corpus.stages.response_job import select_row
from src.corpus.stages.text_engine import Task
from src.dataset.tables import KEY, open_split, read_keys
from src.prompts.chat import ChatTokenizer
from src.prompts.layouts import prompt_checker_messages, writer_messages
from src.prompts.texts import Prompts

if TYPE_CHECKING:
    from src.generation.requests import Result

StageName = Literal["write", "check"]
STAGES: tuple[StageName, ...] = ("write", "check")
DESCRIPTION = "audio_description"
NO_DESCRIPTION, NONE_GOOD, ALL_MARKED = "no_description", "none_good", "all_marked"
_CHUNK = 10_000
_EXAMPLE_CHARACTERS = 600
_CHAT_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class PromptSpec:
    """What a job needs to know: where the corpus and the journals lie, and what shapes the results.

    ``examples`` are descriptions of the corpus for the writer; ``marks`` the settings that each stage's results
    depend on. ``limit`` takes the first rows, ``only`` the row at one position.
    """

    dataset: str
    split: str
    raw_folder: Path
    work_folder: Path
    marks: Mapping[StageName, Mapping[str, Any]]
    prompts: Prompts
    examples: tuple[str, ...]
    seed: int
    limit: int | None = None
    only: int | None = None


@dataclass(frozen=True)
class PromptRow:
    """A row's outcome: its prompt, or ``status`` says why it has none. ``attempts`` is what it took."""

    dataset_index: int
    description: str
    prompt: str
    status: str
    attempts: int


class PromptJob:
    """Rows of one corpus split; every attempt runs both stages on the rows that have not passed yet.

    Rows with the same description and the same style share one request, that of the first of them (their *leader*);
    the choice among its good prompts is each row's own.

    Attributes:
        keys: ``dataset_index`` of every row, int64 ``(rows,)``.
        leaders: int64 ``(rows,)``, the row that asks for a row; -1 for rows without a description.
        passed: int64 ``(rows,)``, the attempt that gave a leader good prompts; -1 without.
    """

    def __init__(self, spec: PromptSpec) -> None:
        """Open the raw set. Raises :class:`UserError` if it is missing or lacks columns."""
        self.spec = spec
        self._table, keys = open_descriptions(spec.dataset, spec.raw_folder, spec.split)
        if spec.only is not None:
            self._table = select_row(self._table, spec.only, f"raw set {spec.dataset}")
            keys = keys[spec.only : spec.only + 1]
        self.keys = keys if spec.limit is None else keys[: spec.limit]
        self.leaders = self._find_leaders()
        self.passed = np.full(self.keys.size, -1, dtype=np.int64)
        self._leads = np.flatnonzero(self.leaders == np.arange(self.keys.size))
        self._journals: dict[tuple[StageName, int], Journal] = {}
        self._attempts = 0

    @property
    def requests(self) -> int:
        """Number of different requests: distinct descriptions and styles."""
        return int(self._leads.size)

    def journal(self, stage: StageName, attempt: int) -> Journal:
        """The journal of a stage."""
        key = (stage, attempt)
        if key not in self._journals:
            folder = self.spec.work_folder / self.spec.split / f"{stage}-{attempt}"
            self._journals[key] = Journal(folder, self.keys, self.spec.marks[stage])
        return self._journals[key]

    def close(self) -> None:
        """Close all journals."""
        for journal in self._journals.values():
            journal.close()

    def tasks(self, stage: StageName, attempt: int) -> Iterator[Task]:
        """What a stage has left to do for the rows that have not passed yet."""
        return self._write_tasks(attempt) if stage == "write" else self._check_tasks(attempt)

    def finisher(self, stage: StageName, attempt: int) -> Callable[[Task, Result, ChatTokenizer], None]:
        """What keeps a result of a stage in its journal."""
        journal = self.journal(stage, attempt)
        if stage == "check":
            return functools.partial(_checked, journal)
        prompts = self.spec.prompts
        tags = (*_CHAT_TAGS, prompts.description_open, prompts.description_close)
        return functools.partial(_written, journal, tags)

    def _write_tasks(self, attempt: int) -> Iterator[Task]:
        journal, prompts = self.journal("write", attempt), self.spec.prompts
        for row in self._pending():
            description, style = self._description(row), self._draw(row)[0]
            digest = input_digest(description, style)
            if not journal.has(row, digest):
                messages = writer_messages(prompts, self.spec.examples, description, style)
                yield Task(row, digest, messages, self._seed(row, f"write/{attempt}"))

    def _check_tasks(self, attempt: int) -> Iterator[Task]:
        source, journal = self.journal("write", attempt), self.journal("check", attempt)
        for row in self._pending():
            if source.ok[row]:
                candidates = source.read(row)["prompts"]
                description = self._description(row)
                digest = input_digest(description, *candidates)
                if not journal.has(row, digest):
                    messages = prompt_checker_messages(self.spec.prompts, description, candidates)
                    yield Task(row, digest, messages, self._seed(row, f"check/{attempt}"), len(candidates))

    def settle(self, attempt: int) -> int:
        """Note which requests passed in this attempt; returns how many still have no good prompt."""
        self._attempts = attempt + 1
        ok = self.journal("write", attempt).ok & self.journal("check", attempt).ok
        self.passed[(self.passed < 0) & ok] = attempt
        return int((self.passed[self._leads] < 0).sum())

    def rows(self) -> Iterator[PromptRow]:
        """All rows, each with the prompt chosen for it or the reason why it has none."""
        for row, leader in enumerate(self.leaders.tolist()):
            key = int(self.keys[row])
            if leader < 0:
                yield PromptRow(key, "", "", NO_DESCRIPTION, 0)
                continue
            attempt = int(self.passed[leader])
            if attempt < 0:
                yield PromptRow(key, self._description(row), "", self._failure(leader), self._attempts)
                continue
            candidates = self.journal("write", attempt).read(leader)["prompts"]
            good = self.journal("check", attempt).read(leader)["good"]
            chosen = candidates[good[int(self._draw(row)[1] * len(good))]]
            yield PromptRow(key, self._description(row), chosen, "ok", attempt + 1)

    def candidate_counts(self) -> tuple[int, int]:
        """Written prompts and good ones among them, over the requests that passed."""
        written = good = 0
        for leader in self._leads[self.passed[self._leads] >= 0].tolist():
            attempt = int(self.passed[leader])
            written += len(self.journal("write", attempt).read(leader)["prompts"])
            good += len(self.journal("check", attempt).read(leader)["good"])
        return written, good

    def _failure(self, leader: int) -> str:
        """Why the last attempt of a request failed."""
        last = self._attempts - 1
        stage: StageName = "check" if self.journal("write", last).ok[leader] else "write"
        status: str = self.journal(stage, last).read(leader)["status"]
        return f"{stage}:{status}"

    def _pending(self) -> Iterator[int]:
        for row in self._leads.tolist():
            if self.passed[row] < 0:
                yield row

    def _description(self, row: int) -> str:
        return str(self._table[row][DESCRIPTION])

    def _seed(self, row: int, use: str) -> int:
        return row_seed(self.spec.seed, f"{self.spec.dataset}/{self.spec.split}/{self.keys[row]}/{use}")

    def _draw(self, row: int) -> tuple[str, float]:
        """The style that a row's prompt is to have, and its place in [0, 1) among the good ones."""
        rng = random.Random(self._seed(row, "prompt"))
        return rng.choice(self.spec.prompts.writer_styles), rng.random()

    def _find_leaders(self) -> np.ndarray:
        marks = np.empty(self.keys.size, dtype=np.uint64)  # 64 bits: no clash among millions of rows
        blank = np.zeros(self.keys.size, dtype=bool)
        for start in range(0, self.keys.size, _CHUNK):
            stop = min(start + _CHUNK, self.keys.size)
            for row, text in enumerate(self._table[start:stop][DESCRIPTION], start):
                blank[row] = not (text or "").strip()
                content = f"{self._draw(row)[0]}\x00{text}".encode()
                marks[row] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        _, first, place = np.unique(marks, return_index=True, return_inverse=True)
        return np.where(blank, -1, first[place])


def open_descriptions(dataset: str, folder: Path, split: str) -> tuple[Any, np.ndarray]:
    """Keys and descriptions of a raw split, without its audio.

    Raises :class:`UserError` if the split or a column is missing.
    """
    table = open_split(folder, split, f"raw set {dataset}")
    keys = read_keys(table, f"raw set {dataset}")
    if DESCRIPTION not in table.column_names:
        raise UserError(
            f"raw set {dataset} has no column {DESCRIPTION!r} but {', '.join(table.column_names)}; prompts are "
            "written from descriptions, and spoken instructions need none"
        )
    return table.select_columns([KEY, DESCRIPTION]), keys


def draw_examples(dataset: str, folder: Path, splits: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """Up to ``count`` different descriptions from anywhere in a corpus, long ones shortened; the same for a seed."""
    from datasets import concatenate_datasets

    table = concatenate_datasets([open_descriptions(dataset, folder, split)[0] for split in splits])
    rng = random.Random(row_seed(seed, f"{dataset}/examples"))
    found: dict[str, None] = {}
    for row in rng.sample(range(len(table)), min(len(table), 8 * count)):
        text = " ".join((table[row][DESCRIPTION] or "").split())
        if text and len(found) < count:
            found[text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + " …"] = None
    return tuple(found)


def _written(journal: Journal, tags: Sequence[str], task: Task, result: Result, tokenizer: ChatTokenizer) -> None:
    """Keep the prompts that a writer listed; its whole output only if they cannot be used."""
    listed, status = read_prompt_list(result.text)
    # a tag in a prompt would be taken for one of the conversation's own
    prompts = [prompt for prompt in listed if not any(tag in prompt for tag in tags)]
    if listed and not prompts:
        status = ALL_MARKED
    _append(journal, task, status, result, prompts=prompts)


def _checked(journal: Journal, task: Task, result: Result, tokenizer: ChatTokenizer) -> None:
    """Keep which prompts are good, by their place."""
    good, status = read_verdicts(result.text, task.source)
    if status == "ok" and not any(good):
        status = NONE_GOOD
    _append(journal, task, status, result, good=[place for place, fine in enumerate(good) if fine])


def _append(journal: Journal, task: Task, status: str, result: Result, **fields: Any) -> None:
    if result.error:
        status, fields["error"] = "error", str(result.error)
    if status != "ok":
        fields |= {"raw": result.text, "finish_reason": result.finish_reason or ""}
    journal.append(task.row, task.digest, ok=status == "ok", status=status, **fields)
