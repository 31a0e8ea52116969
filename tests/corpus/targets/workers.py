"""Engines of workers that are processes of their own, started by name; and a run over them that can be killed."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from src.corpus.targets import responses
from src.corpus.targets.llm_settings import ResponseSettings
from src.inference.types import Request, Result, Sampling
from src.inference.worker_pool_engine import WorkerPoolEngine, serve_requests
from src.inference.workers import Workers
from src.prompts.reasoning import THINKING
from tests.corpus.targets.fakes import FakeEngine, reader_and_listener
from tests.prompts.fakes import CharTokenizer

generate_responses = functools.partial(responses.generate_responses, reasoning=THINKING)

SETTINGS = ResponseSettings(llm="org/tiny", prompts="mini", rephrase=True, max_tokens=64, max_thinking_tokens=16)


def seeded(prompt: str, request: Request) -> str:
    """Answers that depend on a row's prompt and seed alone."""
    return reader_and_listener(prompt, request).replace("it is that", f"it is {request.seed}")


class WorkerEngine(FakeEngine):
    """A scripted engine that leaves a file for each request, named by row and process."""

    capacity = 3

    def __init__(self, notes: Path, kill_after: int | None = None) -> None:
        super().__init__(seeded, room=1)  # with more it would wait for a request while it holds another
        self._notes, self._kill_after = notes, kill_after

    def _answer(self, request: Request, sampling: Sampling) -> Result:
        if self._kill_after is not None and len(self.seen) >= self._kill_after and _first(self._notes):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        (self._notes / f"{request.key}-{sampling.max_tokens}-{os.getpid()}").touch()
        return super()._answer(request, sampling)


def _first(notes: Path) -> bool:
    try:
        os.close(os.open(notes / "victim", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def start_engine(notes: Path, meet: int, kill_after: int | None = None) -> WorkerEngine:
    """Started when so many workers are here: otherwise the first may do all the rows before the next one is."""
    (notes / f"here-{os.getpid()}").touch()
    until = time.monotonic() + 120
    while len(list(notes.glob("here-*"))) < meet and time.monotonic() < until:
        time.sleep(0.02)
    return WorkerEngine(notes, kill_after)


def service(notes: Path, meet: int = 2, kill_after: int | None = None) -> functools.partial[None]:
    """One worker: answers its rows until there are none."""
    return functools.partial(serve_requests, functools.partial(start_engine, notes, meet, kill_after))


class DyingEngine(WorkerPoolEngine):
    """Kills this process, without a word, after so many results."""

    def __init__(self, workers: Workers, die_after: int) -> None:
        super().__init__(workers, CharTokenizer())
        self._left = die_after

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results, as long as there is life."""
        for result in super().run(requests, sampling):
            yield result
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main(notes: Path, die_after: int) -> None:
    """The run of the tests with two workers, killed after so many results."""
    from src.inference.local_workers import LocalWorkers

    generate_responses(["mini"], SETTINGS, lambda llm: DyingEngine(LocalWorkers(service(notes), 2), die_after))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
