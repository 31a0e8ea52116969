"""Between asyncio and the step loop: one thread owns the engine, coroutines wait for what it writes."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from src.common.log import get_logger
from src.generation.engine import Engine
from src.generation.flight import Flight
from src.generation.requests import Fault, Request, Result, Sampling

log = get_logger(__name__)
TELL_SECONDS, TELL_MOST = 0.0015, 0.05
"""Seconds between tellings of tokens: the first for each running request, the second at most. Each costs the step
loop some of its time, above all where it shares few cores."""
Event = list[int] | Result
"""Tokens of a streamed response, or its end."""


@dataclass(eq=False)
class Ticket:
    """A submitted request; ``events`` brings its tokens, if it is streamed, and at last its result."""

    request: Request
    sampling: Sampling
    streamed: bool
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


Command = tuple[Literal["submit", "abort"], Ticket] | None


class Bridge:
    """Runs an engine in a thread. Made and used on an event loop; :meth:`close` ends the thread.

    ``on_step`` is told, after each step, how many requests run and how many wait for a place.
    """

    def __init__(self, engine: Engine, on_step: Callable[[int, int], None] = lambda running, waiting: None) -> None:
        self.failure: str | None = None
        self._engine = engine
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._tokens: dict[Ticket, list[int]] = {}
        self._results: list[tuple[Ticket, Result]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, sampling: Sampling, streamed: bool) -> Ticket:
        """Hand a request to the engine; its key must be unique among those that run."""
        ticket = Ticket(request, sampling, streamed)
        if self.failure is not None:
            ticket.events.put_nowait(_failed(ticket, self.failure))
        else:
            self._inbox.put(("submit", ticket))
        return ticket

    def abort(self, ticket: Ticket) -> None:
        """Drop a request; nothing more is told of it that matters."""
        self._inbox.put(("abort", ticket))

    async def close(self) -> None:
        """Finish what runs and end the thread."""
        self._inbox.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(0.01)

    def _run(self) -> None:
        flight = self._engine.flight()
        tickets: dict[str, Ticket] = {}
        waiting: deque[Ticket] = deque()
        open_, error, told_last = True, "the engine has ended", 0.0
        try:
            while open_ or waiting or flight:
                open_ = self._take(flight, tickets, waiting, open_)
                self._admit(flight, tickets, waiting)
                if flight:
                    for result in flight.step():
                        self._results.append((tickets.pop(result.key), result))
                self._on_step(len(flight), len(waiting))
                pause = min(TELL_MOST, TELL_SECONDS * len(flight)) if self._tokens else 0.0
                if time.monotonic() - told_last >= pause:
                    self._tell()
                    told_last = time.monotonic()
        except Exception as raised:  # noqa: BLE001 - told to every waiting client and by /health
            log.exception("the engine failed")
            error = f"the engine failed: {type(raised).__name__}"
        self.failure = error
        self._results += [(ticket, _failed(ticket, error)) for ticket in (*tickets.values(), *waiting)]
        self._drain(error)
        self._tell()

    def _take(self, flight: Flight, tickets: dict[str, Ticket], waiting: deque[Ticket], open_: bool) -> bool:
        """Carry out what has arrived; wait for something if there is nothing else to do. False once it is closed."""
        block = open_ and not flight and not waiting
        while True:
            try:
                command = self._inbox.get(block=block)
            except queue.Empty:
                return open_
            block = False
            if command is None:
                open_ = False
                continue
            what, ticket = command
            if what == "submit":
                waiting.append(ticket)
            elif ticket in waiting:
                waiting.remove(ticket)
            elif tickets.pop(ticket.request.key, None) is not None:
                flight.abort(ticket.request.key)

    def _admit(self, flight: Flight, tickets: dict[str, Ticket], waiting: deque[Ticket]) -> None:
        while waiting and len(flight) < self._engine.max_in_flight:
            ticket = waiting.popleft()
            on_tokens = self._teller(ticket) if ticket.streamed else None
            refused = flight.submit(ticket.request, ticket.sampling, on_tokens)
            if refused is None:
                tickets[ticket.request.key] = ticket
            else:
                self._results.append((ticket, refused))

    def _teller(self, ticket: Ticket) -> Callable[[list[int]], None]:
        return lambda tokens: self._tokens.setdefault(ticket, []).extend(tokens)

    def _tell(self) -> None:
        """All news, tokens before results, in one call, which wakes the event loop once."""
        news: list[tuple[Ticket, Event]] = [*self._tokens.items(), *self._results]
        if news:
            self._tokens, self._results = {}, []
            try:
                self._loop.call_soon_threadsafe(_deliver, news)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.debug("news for a loop that has ended")

    def _drain(self, error: str) -> None:
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                return
            if command is not None and command[0] == "submit":
                self._results.append((command[1], _failed(command[1], error)))


def _deliver(news: list[tuple[Ticket, Event]]) -> None:
    for ticket, event in news:
        ticket.events.put_nowait(event)


def _failed(ticket: Ticket, error: str) -> Result:
    return Result.of_fault(ticket.request.key, Fault("refused", error))
