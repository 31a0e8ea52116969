"""The step loop: requests enter as soon as there is room, results leave as they finish, in any order.

Nothing waits for a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

from src.generation.flight import Core, Flight
from src.generation.prefetch import Prefetcher
from src.generation.requests import Request, Result, Sampling


class Engine:
    """Runs requests through a core.

    ``max_in_flight`` prompts are submitted at a time; some more of them than the core decodes at once keep it busy.
    ``ahead`` requests are prepared beyond these.
    """

    def __init__(self, core: Core, tokenizer: Any, max_in_flight: int = 64, ahead: int = 32) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self.max_in_flight = max_in_flight
        self._ahead = ahead

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Generator[Result, None, None]:
        """Results in the order in which they finish, one for each request.

        ``requests`` is iterated in another thread, so that preparing (encoding audio) and decoding overlap. A
        request that cannot be run gives a result with ``error``. Leaving the iteration early drops what is in flight.
        """
        feed = Prefetcher(requests, self._ahead)
        flight = self.flight()
        try:
            while not feed.ended or flight:
                yield from self._admit(feed, flight, sampling)
                if flight:
                    yield from flight.step()
        finally:
            feed.close()
            flight.clear()

    def flight(self) -> Flight:
        """An empty flight over the core, for whoever submits and steps by himself."""
        return Flight(self.core, self.tokenizer)

    @property
    def capacity(self) -> int:
        """Requests that it holds at a time, submitted or prepared."""
        return self.max_in_flight + self._ahead

    def close(self) -> None:
        """Close the core; the engine cannot be used afterwards."""
        self.core.close()

    def _admit(self, feed: Prefetcher[Request], flight: Flight, sampling: Sampling) -> Iterator[Result]:
        """Submit what is ready while there is room; wait for a request only if there is nothing else to do."""
        while len(flight) < self.max_in_flight:
            request = feed.take(wait=not flight)
            if request is None:
                return
            refused = flight.submit(request, sampling)
            if refused is not None:
                yield refused
