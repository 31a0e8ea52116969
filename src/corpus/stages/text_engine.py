"""Text requests over the generation engine: one engine at a time, started only when there is something to do."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from src.common.log import get_logger
from src.common.naming import model_short_name
from src.prompts.chat import ChatTokenizer, render_chat, text_ids
from src.prompts.layouts import Messages

if TYPE_CHECKING:  # torch behind it: not needed to find out that there is nothing to do
    from src.generation.requests import Request, Result, Sampling

_log = get_logger(__name__)
_LOG_EVERY_S = 30.0
_DIGEST_BYTES = 1 << 20


class TextEngine(Protocol):
    """What the stages use of an engine."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The language model's tokenizer."""

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results in the order in which they are finished; requests are pulled as there is room."""

    def close(self) -> None:
        """Free the engine's memory."""


def make_sampling(options: Mapping[str, Any]) -> Sampling:
    """The engine's settings; torch is behind them."""
    from src.generation.requests import Sampling

    return Sampling(**options)


class EnginePool:
    """Holds one engine: asking for another language model closes the one before."""

    def __init__(self, start: Callable[[str], TextEngine]) -> None:
        """``start`` makes an engine from a model's id or folder."""
        self._start = start
        self._engine: TextEngine | None = None
        self._llm = ""
        self.starts = 0

    def get(self, llm: str) -> TextEngine:
        """The engine of ``llm``, started now if it is not the one held."""
        if self._engine is None or self._llm != llm:
            self.close()
            _log.info("starting the engine for %s", llm)
            self._engine, self._llm = self._start(llm), llm
            self.starts += 1
        return self._engine

    def close(self) -> None:
        """Close the engine, if any."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


@dataclass(frozen=True)
class Task:
    """One request of a stage: table ``row``, checksum of its input, its messages, seed, and what the stage needs."""

    row: int
    digest: int
    messages: Messages
    seed: int
    source: Any = None


def run_tasks(
    name: str,
    open_engine: Callable[[], TextEngine],
    tasks: Iterator[Task],
    sampling: Callable[[], Sampling],
    finish: Callable[[Task, Result, ChatTokenizer], None],
) -> None:
    """Answer ``tasks`` and hand every result to ``finish``; without a task no engine is started.

    Tasks are pulled lazily, so that memory does not grow with their number. ``name`` is for the progress log.
    """
    first = next(tasks, None)
    if first is None:
        return
    from src.generation.requests import Request

    engine = open_engine()
    waiting: dict[str, Task] = {}

    def requests() -> Iterator[Request]:
        for task in itertools.chain([first], tasks):
            key = str(task.row)
            waiting[key] = task
            prompt = render_chat(engine.tokenizer, task.messages)
            yield Request(key=key, segments=(text_ids(engine.tokenizer, prompt),), seed=task.seed)

    started = logged = time.monotonic()
    done = 0
    for done, result in enumerate(engine.run(requests(), sampling()), start=1):
        finish(waiting.pop(result.key), result, engine.tokenizer)
        now = time.monotonic()
        if now - logged > _LOG_EVERY_S:
            logged = now
            _log.info("%s: %d rows, %.1f rows/s", name, done, done / (now - started))
    _log.info("%s: done with %d rows in %.1f s", name, done, time.monotonic() - started)


class EngineNeeds(Protocol):
    """What an engine is started with."""

    @property
    def max_model_len(self) -> int:
        """Longest prompt and response together."""

    @property
    def max_num_seqs(self) -> int | None:
        """Responses decoded at once; None: as the machine can."""

    @property
    def seed(self) -> int:
        """Seed of the engine; rows have their own."""


def llm_mark(llm: str) -> str:
    """Short name of a language model; for a local folder also a checksum that changes with its weights."""
    folder = Path(llm)
    if not folder.is_dir():
        return llm
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")) + sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_DIGEST_BYTES))
            file.seek(max(0, size - _DIGEST_BYTES))
            digest.update(file.read())
    return f"{model_short_name(llm)}@{digest.hexdigest()[:16]}"


def text_mark(*texts: str) -> str:
    """Checksum of texts that a stage shows to a model."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:16]
