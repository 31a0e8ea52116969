"""Runs the engine in a thread and exposes it to asyncio."""

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
from src.inference.engine import Engine
from src.inference.scheduler import Scheduler
from src.inference.types import Request, RequestError, Result, Sampling

log = get_logger(__name__)
FLUSH_SECONDS, MAX_FLUSH_SECONDS = 0.0015, 0.05
"""Seconds between two deliveries of tokens: per running request, and at most. Waking the event loop for every token
takes the interpreter lock from the step loop, which costs most on machines with few cores."""
Event = list[int] | Result
"""Tokens of a streamed response, or its result."""


@dataclass(eq=False)
class RequestHandle:
    """A submitted request; ``events`` receives its tokens, if it is streamed, and finally its result."""

    request: Request
    sampling: Sampling
    streamed: bool
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def failed(self, error: str) -> Result:
        """A result for a request that the engine did not run."""
        return Result.failed(self.request.key, RequestError("refused", error))


Command = tuple[Literal["submit", "abort"], RequestHandle] | None


class AsyncEngine:
    """Owns an engine's thread. Created and used on an event loop; :meth:`close` ends the thread.

    ``on_step`` is called after each step with the numbers of running and of waiting requests.
    """

    def __init__(self, engine: Engine, on_step: Callable[[int, int], None] = lambda running, waiting: None) -> None:
        self.failure: str | None = None
        self._engine = engine
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._tokens: dict[RequestHandle, list[int]] = {}
        self._results: list[tuple[RequestHandle, Result]] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, sampling: Sampling, streamed: bool) -> RequestHandle:
        """Submit a request; its key must differ from those of all running requests."""
        handle = RequestHandle(request, sampling, streamed)
        if self.failure is not None:
            handle.events.put_nowait(handle.failed(self.failure))
        else:
            self._commands.put(("submit", handle))
        return handle

    def abort(self, handle: RequestHandle) -> None:
        """Drop a request; events that it still receives can be ignored."""
        self._commands.put(("abort", handle))

    async def close(self) -> None:
        """Finish all running and waiting requests and end the thread."""
        self._commands.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(0.01)

    def _run(self) -> None:
        scheduler = self._engine.scheduler()
        running: dict[str, RequestHandle] = {}
        waiting: deque[RequestHandle] = deque()
        open_, error, flushed = True, "the engine has ended", 0.0
        try:
            while open_ or waiting or scheduler:
                open_ = self._take_commands(scheduler, running, waiting, open_)
                while waiting and len(scheduler) < self._engine.max_in_flight:
                    handle = waiting.popleft()
                    on_tokens = self._token_callback(handle) if handle.streamed else None
                    refused = scheduler.submit(handle.request, handle.sampling, on_tokens)
                    if refused is None:
                        running[handle.request.key] = handle
                    else:
                        self._results.append((handle, refused))
                if scheduler:
                    self._results += [(running.pop(result.key), result) for result in self._engine.step()]
                self._on_step(len(scheduler), len(waiting))
                pause = min(MAX_FLUSH_SECONDS, FLUSH_SECONDS * len(scheduler)) if self._tokens else 0.0
                if time.monotonic() - flushed >= pause:
                    self._flush()
                    flushed = time.monotonic()
        except Exception as raised:  # noqa: BLE001 - reported to every waiting client and by /health
            log.exception("the engine failed")
            error = f"the engine failed: {type(raised).__name__}"
        self.failure = error
        # requests that were submitted before `failure` was set get a result too
        while not self._commands.empty():
            command = self._commands.get_nowait()
            if command is not None and command[0] == "submit":
                waiting.append(command[1])
        self._results += [(handle, handle.failed(error)) for handle in (*running.values(), *waiting)]
        self._flush()

    def _take_commands(
        self, scheduler: Scheduler, running: dict[str, RequestHandle], waiting: deque[RequestHandle], open_: bool
    ) -> bool:
        """Execute the queued commands; block for one if there is nothing else to do. Returns False once closed."""
        block = open_ and not scheduler and not waiting
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return open_
            block = False
            if command is None:
                open_ = False
                continue
            what, handle = command
            if what == "submit":
                waiting.append(handle)
            elif handle in waiting:
                waiting.remove(handle)
            elif running.pop(handle.request.key, None) is not None:
                scheduler.abort(handle.request.key)

    def _token_callback(self, handle: RequestHandle) -> Callable[[list[int]], None]:
        return lambda tokens: self._tokens.setdefault(handle, []).extend(tokens)

    def _flush(self) -> None:
        """Deliver all tokens, then all results, in one call, which wakes the event loop once."""
        events: list[tuple[RequestHandle, Event]] = [*self._tokens.items(), *self._results]
        if events:
            self._tokens, self._results = {}, []
            try:
                self._loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the event loop is closed: nobody waits any more
                log.debug("events for a closed event loop")


def _deliver(events: list[tuple[RequestHandle, Event]]) -> None:
    for handle, event in events:
        handle.events.put_nowait(event)
