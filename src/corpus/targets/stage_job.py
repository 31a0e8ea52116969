"""Rows of a corpus split through the stages of language models, with retries; every result is logged by row.

A stage makes one request per row and reads the output. An attempt runs all stages on the rows that have not passed
yet; a row passes when each of its stages succeeds. A run that was killed continues at the row where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import model_short_name
from src.common.seeds import row_seed
from src.corpus.targets.engine_pool import EnginePool
from src.dataset.row_log import StageLog, input_digest
from src.dataset.tables import KEY, open_split, read_keys
from src.prompts.chat import ChatTokenizer, render_chat, text_ids
from src.prompts.messages import Messages

if TYPE_CHECKING:  # torch behind it: not needed to find out that there is nothing to do
    from src.inference.types import Request, Result

_log = get_logger(__name__)
_LOG_EVERY_S = 30.0
_DIGEST_BYTES = 1 << 20

StageRecord = Mapping[str, Any]
"""Logged result of a stage."""


@dataclass(frozen=True)
class Stage:
    """One request per row to one language model.

    ``inputs(row, previous)`` are the texts that the result is made from; ``previous`` is the record of the stage
    before, empty in the first stage. ``ask(row, inputs)`` makes the request's messages and whatever ``read`` needs to
    read the output. ``read(result, needed, tokenizer)`` gives the fields to log; the next stage runs on the row if
    its ``status`` is ``ok``.

    ``options`` are those of ``Sampling``; ``fingerprint`` is every setting that affects results.
    """

    name: str
    llm: str
    options: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    inputs: Callable[[int, StageRecord], Sequence[str]]
    ask: Callable[[int, Sequence[str]], tuple[Messages, Any]]
    read: Callable[[Result, Any, ChatTokenizer], dict[str, Any]]


@dataclass(frozen=True)
class StageRequest:
    """Request of one row: checksum of its inputs, messages, seed, and what is needed to read the output."""

    row: int
    digest: int
    messages: Messages
    seed: int
    needed: Any = None


@dataclass
class StageJob:
    """Rows of one corpus split on their way through the stages.

    ``folder`` is that of the logs; those of the first stage's first attempt are in ``first_folder``, if it is given.
    ``rows`` are the positions of the rows that make requests, int64; None: all.

    Attributes:
        keys: ``dataset_index`` of every row, int64 ``(keys,)``.
        passed: int64 ``(keys,)``, the attempt in which a row passed; -1 for rows that have not.
        attempts: number of attempts so far.
    """

    dataset: str
    split: str
    texts: TextTable
    stages: Sequence[Stage]
    folder: Path
    seed: int
    first_folder: Path | None = None
    rows: np.ndarray | None = None
    attempts: int = 0
    passed: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.keys = self.texts.keys
        self.passed = np.full(self.keys.size, -1, dtype=np.int64)
        self._rows = np.arange(self.keys.size) if self.rows is None else self.rows
        self._logs: dict[tuple[int, int], StageLog] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows that make requests."""
        return int(self._rows.size)

    def sample(self, count: int, seed: int) -> int:
        """Keep ``count`` rows drawn with ``seed`` of those that make requests; returns their number."""
        drawn = np.random.default_rng(seed).permutation(self._rows)[:count]
        self._rows = np.sort(drawn)
        return int(drawn.size)

    @property
    def log_bytes(self) -> int:
        """Size of all results so far, all stages together."""
        return sum(log.size for log in self._logs.values())

    def log(self, stage: int, attempt: int) -> StageLog:
        """Results of a stage in an attempt."""
        if (stage, attempt) not in self._logs:
            folder = self.first_folder if self.first_folder and (stage, attempt) == (0, 0) else self.folder
            path = folder / f"{self.stages[stage].name}-{attempt}"
            self._logs[stage, attempt] = StageLog(path, self.keys, self.stages[stage].fingerprint)
        return self._logs[stage, attempt]

    def close(self) -> None:
        """Close all logs."""
        for log in self._logs.values():
            log.close()

    def requests(self, number: int, attempt: int) -> Iterator[StageRequest]:
        """Requests that a stage has left, of the rows that have not passed yet and passed its previous stages."""
        stage, log = self.stages[number], self.log(number, attempt)
        before = [self.log(earlier, attempt) for earlier in range(number)]
        for row in self._rows[self.passed[self._rows] < 0].tolist():
            if not all(earlier.ok[row] for earlier in before):
                continue
            inputs = stage.inputs(row, before[-1].read(row) if before else {})
            digest = input_digest(*inputs)
            if not log.has(row, digest):
                # a seed of its own for each request: results depend neither on order nor on which rows are left
                key = f"{self.dataset}/{self.split}/{self.keys[row]}/{stage.name}/{attempt}"
                messages, needed = stage.ask(row, inputs)
                yield StageRequest(row, digest, messages, row_seed(self.seed, key), needed)

    def run_stage(self, pool: EnginePool, number: int, attempt: int) -> None:
        """Answer the requests that a stage has left and log every result; without any, no engine is started.

        Requests are pulled lazily, so that memory does not grow with their number.
        """
        pending = self.requests(number, attempt)
        first = next(pending, None)
        if first is None:
            return
        from src.inference.types import Request, Sampling

        stage, log = self.stages[number], self.log(number, attempt)
        label = f"{self.dataset}/{self.split}, attempt {attempt + 1}: {stage.name}"
        engine = pool.get(stage.llm)
        waiting: dict[str, StageRequest] = {}  # results come in any order

        def rendered() -> Iterator[Request]:
            for request in itertools.chain([first], pending):
                key = str(request.row)
                waiting[key] = request
                prompt = render_chat(engine.tokenizer, request.messages)
                yield Request(key=key, segments=(text_ids(engine.tokenizer, prompt),), seed=request.seed)

        started = logged = time.monotonic()
        done = 0
        for done, result in enumerate(engine.run(rendered(), Sampling(**stage.options)), start=1):
            request = waiting.pop(result.key)
            fields = stage.read(result, request.needed, engine.tokenizer)
            log.append(request.row, request.digest, ok=fields["status"] == "ok", **fields)
            now = time.monotonic()
            if now - logged > _LOG_EVERY_S:
                logged = now
                _log.info("%s: %d rows, %.1f rows/s", label, done, done / (now - started))
        _log.info("%s: done with %d rows in %.1f s", label, done, time.monotonic() - started)

    def update_passed(self, attempt: int) -> int:
        """Record which rows passed in this attempt; returns how many still have not."""
        self.attempts = attempt + 1
        # a stage has no record of the rows that failed before it, and counts as failed for them
        ok = np.logical_and.reduce([self.log(number, attempt).ok for number in range(len(self.stages))])
        self.passed[(self.passed < 0) & ok] = attempt
        return int((self.passed[self._rows] < 0).sum())


def run_jobs(jobs: Sequence[StageJob], attempts: int, pool: EnginePool, lacking: str) -> None:
    """Run attempts over jobs with the same stages until every row has passed, at most ``attempts`` times.

    ``lacking`` names the rows that have not passed, for the log.
    """
    for attempt in range(attempts):
        # stages of one language model run job by job; another one needs another engine, which is slow to start
        for _, group in itertools.groupby(enumerate(jobs[0].stages), key=lambda item: item[1].llm):
            numbers = [number for number, _ in group]
            for job in jobs:
                for number in numbers:
                    job.run_stage(pool, number, attempt)
        left = sum(job.update_passed(attempt) for job in jobs)
        _log.info("attempt %d of %d: %d %s", attempt + 1, attempts, left, lacking)
        if not left:
            return


class TextTable:
    """Text columns of a saved split, without its audio.

    Attributes:
        keys: ``dataset_index`` of every row, int64 ``(rows,)``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        split: str,
        columns: Sequence[str],
        hint: str,
        limit: int | None = None,
        only: int | None = None,
    ) -> None:
        """Open the split; ``limit`` takes the first rows, ``only`` the row at one position.

        ``name`` is what is looked for. Raises :class:`UserError` if the split, the row or a column is missing;
        ``hint`` says how to get a set with these columns.
        """
        table = open_split(folder, split, name)
        lacking = [column for column in (KEY, *columns) if column not in table.column_names]
        if lacking:
            raise UserError(
                f"{name} has no column {' and '.join(lacking)}; it has {', '.join(table.column_names)} "
                f"({folder}, split {split!r}); {hint}"
            )
        if only is not None:
            if not 0 <= only < len(table):
                raise UserError(f"{name} has no row {only}; it has {len(table)} rows ({folder})")
            table = table.select([only])
        self.keys = read_keys(table, str(folder))[:limit]
        self.table = table.select_columns([KEY, *columns])
        self._columns = columns

    def __getitem__(self, row: int) -> tuple[str, ...]:
        """Texts of the row at this position, missing ones empty."""
        entry = self.table[row]
        return tuple(entry[column] or "" for column in self._columns)


def llm_fingerprint(llm: str) -> str:
    """Short name of a language model; for a local folder also a checksum that changes with its weights."""
    folder = Path(llm)
    if not folder.is_dir():
        return llm
    # sizes and both ends instead of whole files: weights of 60 GB would take minutes to read
    # tokenizer, chat template and generation config affect results as the weights do
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")) + sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_DIGEST_BYTES))
            file.seek(max(0, size - _DIGEST_BYTES))
            digest.update(file.read())
    return f"{model_short_name(llm)}@{digest.hexdigest()[:16]}"


def text_fingerprint(*texts: str) -> str:
    """Checksum of the texts that a stage shows to a model."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:16]
