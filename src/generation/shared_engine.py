"""One engine to its user, several engines behind it: text requests shared out among workers.

Results do not depend on the number of workers: every request carries its own seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from src.generation.config import EngineConfig
from src.generation.dispatch import Dispatcher, OpenWorkers, Workers
from src.generation.requests import Request, Result, Sampling
from src.generation.vllm_core import VllmEngine
from src.generation.work import Inbox, Ready, Tell
from src.model.llm import load_chat_tokenizer
from src.prompts.chat import ChatTokenizer


@dataclass(frozen=True)
class Asked:
    """A request, and how its response is drawn."""

    request: Request
    sampling: Sampling


class RunsRequests(Protocol):
    """What a worker uses of an engine."""

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time."""

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results in the order in which they finish."""

    def close(self) -> None:
        """Free the engine's memory."""


class SharedEngine:
    """An engine whose requests are run by workers that do :func:`serve_requests`."""

    def __init__(self, workers: Workers, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._workers = workers
        self._dispatcher = Dispatcher(workers, lambda asked: asked.request.key, lambda result: result.key)

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results in the order in which they finish. Raises :class:`UserError` when all workers are lost."""
        return self._dispatcher.run(Asked(request, sampling) for request in requests)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


def start_engine(
    llm: str, config: EngineConfig, open_workers: OpenWorkers | None = None
) -> VllmEngine | SharedEngine:
    """vLLM in this process, or one in each of the workers. Raises :class:`UserError` if ``llm`` cannot be loaded."""
    tokenizer = load_chat_tokenizer(llm)  # before an engine is loaded
    if open_workers is None:
        return VllmEngine(llm, config)
    service = functools.partial(serve_requests, functools.partial(VllmEngine, llm, config))
    return SharedEngine(open_workers(service), tokenizer)


def serve_requests(start: Callable[[], RunsRequests], inbox: Inbox, tell: Tell) -> None:
    """Run requests from ``inbox`` until it ends, with an engine of this worker's own."""
    engine = start()
    try:
        tell(Ready(engine.capacity))
        for sampling, requests in _by_sampling(inbox):
            for result in engine.run(requests, sampling):
                tell(result)
    finally:
        engine.close()


def _by_sampling(inbox: Inbox) -> Iterator[tuple[Sampling, Iterator[Request]]]:
    """The inbox in runs of one sampling each; a run lasts until something else is asked for."""
    asked: Any = inbox.get()

    def requests(sampling: Sampling) -> Iterator[Request]:
        nonlocal asked
        while asked is not None and asked.sampling == sampling:
            yield asked.request
            asked = inbox.get()

    while asked is not None:
        yield asked.sampling, requests(asked.sampling)
