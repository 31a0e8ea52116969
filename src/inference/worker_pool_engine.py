"""An engine over several workers, each with an engine of its own.

Results do not depend on the number of workers: every request carries its own seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from src.inference.config import EngineConfig, LlmSource
from src.inference.engine import Engine
from src.inference.load import load_vllm
from src.inference.types import Request, Result, Sampling
from src.inference.workers import Dispatcher, OpenWorkers, Ready, Send, Workers, WorkQueue
from src.model.llm import load_chat_tokenizer
from src.prompts.chat import ChatTokenizer


class WorkerPoolEngine:
    """Runs text requests on workers whose body is :func:`serve_requests`."""

    def __init__(self, workers: Workers, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._workers = workers
        self._dispatcher = Dispatcher(workers, lambda work: work[0].key, lambda result: result.key)

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results in the order in which they finish. Raises :class:`UserError` when all workers have died."""
        return self._dispatcher.run((request, sampling) for request in requests)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


def start_engine(
    llm: str, config: EngineConfig, open_workers: OpenWorkers | None = None, reasoning: str | None = None
) -> Engine | WorkerPoolEngine:
    """vLLM in this process, or one in each of the workers. Raises :class:`UserError` if ``llm`` cannot be loaded."""
    tokenizer = load_chat_tokenizer(llm, reasoning=reasoning)  # fails before an engine is loaded
    source = LlmSource(llm, reasoning=reasoning)
    if open_workers is None:
        return load_vllm(source, config)
    main = functools.partial(serve_requests, functools.partial(load_vllm, source, config))
    return WorkerPoolEngine(open_workers(main), tokenizer)


def serve_requests(start: Callable[[], Engine], work: WorkQueue, send: Send) -> None:
    """Body of a worker: sends results of the pairs (request, sampling) in ``work`` until it ends."""
    engine = start()
    try:
        send(Ready(engine.capacity))
        following: Any = work.get()

        def requests(sampling: Sampling) -> Iterator[Request]:
            nonlocal following
            while following is not None and following[1] == sampling:
                yield following[0]
                following = work.get()

        # An engine runs with one sampling at a time: each run lasts until a request asks for another.
        while following is not None:
            sampling = following[1]
            for result in engine.run(requests(sampling), sampling):
                send(result)
    finally:
        engine.close()
