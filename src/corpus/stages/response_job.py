"""The rows of one corpus split on their way through generation, rephrasing and checking."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from src.common.errors import UserError
from src.common.seeds import row_seed
from src.corpus.stages.journal import Journal, input_digest
from src.corpus.stages.rephrase_text import Prepared, prepare, restore
from src.corpus.stages.text_engine import Task
from src.dataset.tables import KEY, open_split, read_keys
from src.prompts.chat import ChatTokenizer, text_ids
from src.prompts.layouts import Messages, ResponseTexts, checker_messages, rephrase_messages
from src.prompts.texts import Prompts
from src.prompts.thoughts import split_response

if TYPE_CHECKING:
    from src.generation.requests import Result

StageName = Literal["generate", "rephrase", "check"]
BETRAYS = "betrays"
JOURNAL = "journal"
"""Folder in a response folder with the results of all stages, row by row."""


@dataclass(frozen=True)
class JobSpec:
    """What a job needs to know: its table, where its journals lie, and what shapes its results.

    ``texts`` are two text columns of the table in ``table_folder``, and ``messages`` makes of a row's two texts what
    the language model is asked; ``hint`` says how to come by a table with these columns. ``folders`` gives the
    response folder of every stage's journal in use and ``marks`` the settings that its results depend on; a stage
    that is absent from ``folders`` is off. ``prompts`` are those of rewriter and checker, ``first_name`` is the name
    of the first stage's journals and seeds. ``limit`` takes the first rows, ``only`` the row at one position.
    """

    dataset: str
    split: str
    table_folder: Path
    texts: tuple[str, str]
    messages: Callable[[str, str], Messages]
    hint: str
    folders: Mapping[StageName, Path]
    first_folder: Path
    marks: Mapping[StageName, Mapping[str, Any]]
    seed: int
    prompts: Prompts | None = None
    checker_system: str = ""
    limit: int | None = None
    first_name: str = "generate"
    only: int | None = None


@dataclass(frozen=True)
class Row:
    """A row's outcome: the table's two ``texts`` and the response.

    ``status`` is ``ok`` or why the row must not be trained on; ``text`` may then be empty.
    """

    dataset_index: int
    texts: tuple[str, str]
    text: str
    status: str
    num_tokens: int
    finish_reason: str
    attempts: int


class ResponseJob:
    """Rows of one corpus split; every attempt runs the stages on the rows that have not passed yet.

    Attributes:
        passed: int64 ``(rows,)``, the attempt that gave a row its response; -1 for rows without one.
    """

    def __init__(self, spec: JobSpec) -> None:
        """Open the table. Raises :class:`UserError` if it is missing or lacks columns."""
        table = open_table(spec)
        keys = read_keys(table, str(spec.table_folder))
        self.spec = spec
        self.keys = keys if spec.limit is None else keys[: spec.limit]
        self.passed = np.full(self.keys.size, -1, dtype=np.int64)
        self._table = table.select_columns([KEY, *spec.texts])
        self._journals: dict[tuple[StageName, int], Journal] = {}
        self._attempts = 0

    @property
    def journal_bytes(self) -> int:
        """Size of all results so far, all stages together."""
        return sum(journal.size for journal in self._journals.values())

    def journal(self, stage: StageName, attempt: int) -> Journal:
        """The journal of a stage; the first generation belongs to the plain set, all else to the final set."""
        key = (stage, attempt)
        if key not in self._journals:
            plain = stage == "generate" and attempt == 0
            folder = self.spec.first_folder if plain else self.spec.folders[stage]
            path = folder / JOURNAL / self.spec.split / f"{self.name_of(stage)}-{attempt}"
            self._journals[key] = Journal(path, self.keys, self.spec.marks[stage])
        return self._journals[key]

    def close(self) -> None:
        """Close all journals."""
        for journal in self._journals.values():
            journal.close()

    def tasks(self, stage: StageName, attempt: int) -> Iterator[Task]:
        """What a stage has left to do for the rows that have not passed yet."""
        makers = {"generate": self._generate_tasks, "rephrase": self._rephrase_tasks, "check": self._check_tasks}
        return makers[stage](attempt)

    def finisher(self, stage: StageName, attempt: int) -> Callable[[Task, Result, ChatTokenizer], None]:
        """What keeps a result of a stage in its journal."""
        journal = self.journal(stage, attempt)
        return functools.partial({"generate": _generated, "rephrase": _rephrased, "check": _checked}[stage], journal)

    def _generate_tasks(self, attempt: int) -> Iterator[Task]:
        """Self-generation of the rows without a response."""
        journal = self.journal("generate", attempt)
        for row in self._pending():
            texts = self._texts(row)
            digest = input_digest(*texts)
            if not journal.has(row, digest):
                yield Task(row, digest, self.spec.messages(*texts), self._seed(row, "generate", attempt))

    def _rephrase_tasks(self, attempt: int) -> Iterator[Task]:
        """Rewriting of the responses that this attempt generated."""
        source, journal = self.journal("generate", attempt), self.journal("rephrase", attempt)
        prompts = self._prompts
        for row in self._pending():
            if source.ok[row]:
                text = source.read(row)["text"]
                if not journal.has(row, input_digest(text)):
                    prepared = prepare(text, prompts.reasoning_tag)
                    messages = rephrase_messages(prompts, ResponseTexts(text, prepared.text, *self._texts(row)))
                    seed = self._seed(row, "rephrase", attempt)
                    yield Task(row, input_digest(text), messages, seed, prepared)

    def _check_tasks(self, attempt: int) -> Iterator[Task]:
        """The checker's look at the responses that came through the stages before."""
        source = self._last_text(attempt)
        journal = self.journal("check", attempt)
        prompts = self._prompts
        for row in self._pending():
            if self._sound(row, attempt):
                text = source.read(row)["text"]
                if not journal.has(row, input_digest(text)):
                    prepared = prepare(text, prompts.reasoning_tag).text
                    texts = ResponseTexts(text, prepared, *self._texts(row))
                    messages = checker_messages(prompts, self.spec.checker_system, texts)
                    yield Task(row, input_digest(text), messages, self._seed(row, "check", attempt))

    def settle(self, attempt: int) -> int:
        """Note which rows passed in this attempt; returns how many still have no response."""
        self._attempts = attempt + 1
        ok = self.journal("generate", attempt).ok.copy()
        for stage in ("rephrase", "check"):
            if stage in self.spec.folders:
                ok &= self.journal(stage, attempt).ok
        self.passed[(self.passed < 0) & ok] = attempt
        return int((self.passed < 0).sum())

    def plain_rows(self) -> Iterator[Row]:
        """All rows with their first self-generated response."""
        journal = self.journal("generate", 0)
        for row in range(self.keys.size):
            yield self._row(row, journal.read(row), None, 1)

    def final_rows(self) -> Iterator[Row]:
        """All rows after the last stage: the response that passed, else the last try's status."""
        for row in range(self.keys.size):
            attempt = int(self.passed[row]) if self.passed[row] >= 0 else self._attempts - 1
            generated = self.journal("generate", attempt)
            record, status = generated.read(row), None
            finish_reason = record["finish_reason"]
            if generated.ok[row] and "rephrase" in self.spec.folders:
                record = {**self.journal("rephrase", attempt).read(row), "finish_reason": finish_reason}
            if self.passed[row] < 0 and record["ok"]:
                status = BETRAYS
            yield self._row(row, record, status, attempt + 1)

    def _row(self, row: int, record: Mapping[str, Any], status: str | None, attempts: int) -> Row:
        return Row(
            dataset_index=int(self.keys[row]),
            texts=self._texts(row),
            text=record["text"],
            status=status or record["status"],
            num_tokens=record["num_tokens"],
            finish_reason=record["finish_reason"],
            attempts=attempts,
        )

    def _texts(self, row: int) -> tuple[str, str]:
        entry = self._table[row]
        first, second = (entry[column] or "" for column in self.spec.texts)
        return first, second

    @property
    def _prompts(self) -> Prompts:
        assert self.spec.prompts is not None, "a job that rewrites or checks has prompts"
        return self.spec.prompts

    def name_of(self, stage: StageName) -> str:
        """A stage as it is called in journals and messages."""
        return self.spec.first_name if stage == "generate" else stage

    def _pending(self) -> Iterator[int]:
        return (int(row) for row in np.flatnonzero(self.passed < 0))

    def _last_text(self, attempt: int) -> Journal:
        return self.journal("rephrase" if "rephrase" in self.spec.folders else "generate", attempt)

    def _sound(self, row: int, attempt: int) -> bool:
        return bool(self.journal("generate", attempt).ok[row] and self._last_text(attempt).ok[row])

    def _seed(self, row: int, stage: StageName, attempt: int) -> int:
        key = f"{self.spec.dataset}/{self.spec.split}/{self.keys[row]}/{self.name_of(stage)}/{attempt}"
        return row_seed(self.spec.seed, key)


def _generated(journal: Journal, task: Task, result: Result, tokenizer: ChatTokenizer) -> None:
    """Keep a generated response, also a cut one: the target is what the LLM said."""
    status = "error" if result.error else "ok" if result.text.strip() else "empty"
    _append(journal, task, status, result.text, result, tokenizer)


def _rephrased(journal: Journal, task: Task, result: Result, tokenizer: ChatTokenizer) -> None:
    """Restore the format of a rewritten response; the rewriter's whole output is kept beside it."""
    prepared: Prepared = task.source
    restored = restore(result.text, prepared)
    status = "error" if result.error else restored.status
    _append(journal, task, status, restored.text, result, tokenizer, raw=result.text)


def _checked(journal: Journal, task: Task, result: Result, tokenizer: ChatTokenizer) -> None:
    """Keep the checker's verdict."""
    _append(journal, task, BETRAYS if says_yes(result.text) else "ok", result.text, result, tokenizer)


def says_yes(verdict: str) -> bool:
    """Whether a checker's last line is YES, or ends with a colon and YES ("Answer: YES"); all else counts as good."""
    lines = split_response(verdict, inside_thoughts=False).answer.split("\n")
    word = lines[-1].rpartition(":")[2]
    return word.strip().strip("*_.\"'`").strip().upper() == "YES"


def _append(
    journal: Journal,
    task: Task,
    status: str,
    text: str,
    result: Result,
    tokenizer: ChatTokenizer,
    **extra: str,
) -> None:
    journal.append(
        task.row,
        task.digest,
        ok=status == "ok",
        status=status,
        text=text,
        num_tokens=len(text_ids(tokenizer, text)) if text else 0,
        finish_reason=result.finish_reason or "",
        **({"error": str(result.error)} if result.error else {}),
        **extra,
    )


def open_table(spec: JobSpec) -> Any:
    """The split of the table. Raises :class:`UserError` if it is missing or lacks columns."""
    table = open_split(spec.table_folder, spec.split, f"texts of {spec.dataset}")
    lacking = [column for column in (KEY, *spec.texts) if column not in table.column_names]
    if lacking:
        raise UserError(
            f"{spec.table_folder}, split {spec.split!r}: no column {' and '.join(lacking)}; it has "
            f"{', '.join(table.column_names)}; {spec.hint}"
        )
    return table if spec.only is None else select_row(table, spec.only, str(spec.table_folder))


def select_row(table: Any, position: int, name: str) -> Any:
    """The table with the row at ``position`` only. Raises :class:`UserError` if it has no such row."""
    if not 0 <= position < len(table):
        raise UserError(f"{name} has no row {position}; it has {len(table)} rows")
    return table.select([position])
