"""The step loop: requests enter as soon as there is room, results leave as they finish, in any order."""

from __future__ import annotations

from collections.abc import Generator, Iterable
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

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Generator[Result, None, None]:
        """Results in the order in which they finish, one for each request.

        ``requests`` is iterated in another thread, so that preparing (encoding audio) and decoding overlap. A
        request that cannot be run gives a result with ``error``. Leaving the iteration early aborts what is running.
        """
        feed = Prefetcher(requests, self._ahead, self.share_cores)
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
                    yield from scheduler.step()
        finally:
            feed.close()
            scheduler.clear()

    def scheduler(self) -> Scheduler:
        """A new scheduler over the backend, for callers that submit and step themselves."""
        self._scheduler = Scheduler(self.backend, self.tokenizer)
        return self._scheduler

    def share_cores(self) -> None:
        """To be called before each batch in a thread that encodes clips: see :mod:`src.inference.threads`."""
        if self.backend.shares_cores:
            share_cores(busy=bool(self._scheduler))

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time, submitted or prepared."""
        return self.max_in_flight + self._ahead

    def close(self) -> None:
        """Close the backend; the engine cannot be used afterwards."""
        self.backend.close()
