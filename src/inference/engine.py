"""The step loop: requests enter as soon as there is room, results leave as they finish, in any order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from src.inference.prefetch import Prefetcher
from src.inference.scheduler import Backend, Scheduler
from src.inference.threads import share_cores
from src.inference.types import Request, Result, Sampling


class Engine:
    """Runs requests through a backend.

    ``max_in_flight`` prompts are submitted at a time, more than the backend decodes at once, to keep it busy;
    ``ahead`` more are prepared.
    """

    def __init__(self, backend: Backend, tokenizer: Any, max_in_flight: int = 64, ahead: int = 32) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.max_in_flight = max_in_flight
        self._ahead = ahead
        self._scheduler: Scheduler | None = None
        self._encoding = False

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Generator[Result, None, None]:
        """Results in the order in which they finish, one for each request.

        ``requests`` is iterated in another thread, so that preparing (encoding audio) and decoding overlap. A
        request that cannot be run gives a result with ``error``. Leaving the iteration early aborts what is running.
        """
        feed = Prefetcher(requests, self._ahead, self.encoding)
        scheduler = self.scheduler()
        try:
            while not feed.ended or scheduler:
                while len(scheduler) < self.max_in_flight:
                    # wait for a request only if there is nothing to decode: nothing waits for a full batch
                    request = feed.take(wait=not scheduler)
                    if request is None:
                        break
                    refused = scheduler.submit(request, sampling)
                    if refused is not None:
                        yield refused
                if scheduler:
                    yield from self.step()
        finally:
            feed.close()
            scheduler.clear()
            self._share_cores(busy=False)

    def scheduler(self) -> Scheduler:
        """A new scheduler over the backend, for callers that submit and step themselves."""
        self._scheduler = Scheduler(self.backend, self.tokenizer)
        return self._scheduler

    def step(self) -> list[Result]:
        """One step of the last :meth:`scheduler`."""
        assert self._scheduler is not None
        self._share_cores(busy=self._encoding)
        return self._scheduler.step()

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """To be entered by a thread while it encodes clips for this engine: both then share the cores of a CPU."""
        self._share_cores(busy=bool(self._scheduler))
        self._encoding = True
        try:
            yield
        finally:
            self._encoding = False

    def _share_cores(self, busy: bool) -> None:
        if self.backend.shares_cores:
            share_cores(busy)

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time, submitted or prepared."""
        return self.max_in_flight + self._ahead

    def close(self) -> None:
        """Close the backend; the engine cannot be used afterwards."""
        self.backend.close()
