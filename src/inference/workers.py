"""Distributes work over workers; the work of a worker that dies, or that is silent for too long, is reassigned.

A worker is a process with a model of its own, on this machine (``local_workers``) or a Ray cluster (``ray_workers``).
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
WORKER_TIMEOUT = 120.0
"""Seconds without a sign of life after which a worker is given up (``engine.worker_timeout``)."""
LOADING_FACTOR = 5
"""A worker that loads models may be silent for longer: imports and large files can hold Python's global lock."""
POLL_SECONDS = 1.0
"""How long :meth:`Workers.wait` waits for a message."""


@dataclass(frozen=True)
class Ready:
    """First message of a worker: its models are loaded, and it takes ``capacity`` pieces of work at a time."""

    capacity: int


@dataclass(frozen=True)
class WorkerDied:
    """Last message of a worker: it ends before its work is done."""

    reason: str


Message = Any
"""Message of a worker: :class:`Ready`, a result, or :class:`WorkerDied`."""
Send = Callable[[Message], None]


WorkQueue = queue.Queue[Any]
"""Work for a worker, ``None`` at its end."""
WorkerMain = Callable[[WorkQueue, Send], None]
"""Body of a worker: loads models, sends :class:`Ready`, and sends results until the queue ends."""


class Workers(Protocol):
    """Started workers, numbered from 0."""

    count: int

    def send(self, worker: int, work: Sequence[Any]) -> None:
        """Give work to a worker; returns at once."""

    def wait(self) -> Iterable[tuple[int, Message]]:
        """Messages of workers since the last call; none if there are none for :data:`POLL_SECONDS`.

        Raises :class:`UserError` if no worker can be started.
        """

    def close(self) -> None:
        """End all workers."""


OpenWorkers = Callable[[WorkerMain], Workers]
"""Starts workers with a body."""


class SilenceMonitor:
    """Seconds since each worker's last sign of life, to find those that are silent for too long.

    Workers send signs of life from a thread of their own, so that a long step is no silence; a process that is
    stopped (SIGSTOP, a frozen container, a machine that hangs) sends none.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._silent: dict[int, float] = {}
        self._ready: set[int] = set()
        self._last = time.monotonic()

    @property
    def interval(self) -> float:
        """Seconds between two signs of life."""
        return min(5.0, self._timeout / 4)

    def saw(self, worker: int, message: Message = None) -> None:
        """Note a message of a worker, or another sign of life."""
        self._silent[worker] = 0.0
        if isinstance(message, Ready):
            self._ready.add(worker)

    def forget(self, worker: int) -> None:
        """Stop watching a worker that has ended."""
        self._silent.pop(worker, None)

    def overdue(self) -> list[tuple[int, WorkerDied]]:
        """Workers that are to be given up, to be asked between two waits."""
        # Time in which this process was itself stopped (Ctrl-Z) or busy elsewhere counts for little.
        now = time.monotonic()
        passed, self._last = min(now - self._last, 2 * POLL_SECONDS), now
        found = []
        for worker in self._silent:
            self._silent[worker] += passed
            limit = self._timeout * (1 if worker in self._ready else LOADING_FACTOR)
            if self._silent[worker] > limit:
                doing = "" if worker in self._ready else " while loading"
                reason = f"no sign of life for {limit:.0f} s{doing}, so it was killed (engine.worker_timeout)"
                found.append((worker, WorkerDied(reason)))
        return found


class Dispatcher:
    """Gives work to workers, run after run.

    ``work_key`` names a piece of work, ``result_key`` the piece that a result belongs to.
    """

    def __init__(
        self, workers: Workers, work_key: Callable[[Any], str], result_key: Callable[[Message], str]
    ) -> None:
        self._workers = workers
        self._work_key, self._result_key = work_key, result_key
        self._capacity: dict[int, int] = {}
        self._assigned: dict[int, dict[str, Any]] = {}
        self._alive = set(range(workers.count))
        self._reason = ""

    def run(self, work: Iterable[Any]) -> Iterator[Any]:
        """Results in the order in which they finish.

        Work is pulled as there is room for it. Raises :class:`UserError` when all workers have died.
        """
        source, waiting, ended = iter(work), deque[Any](), False
        while True:
            # one piece even before a worker is ready: it shows whether there is any work at all
            while not ended and len(waiting) < max(1, 2 * sum(self._capacity.values())):
                try:
                    waiting.append(next(source))
                except StopIteration:
                    ended = True
            self._assign(waiting)
            if ended and not waiting and not any(self._assigned.values()):
                return
            for worker, message in self._workers.wait():
                if isinstance(message, WorkerDied):
                    self._reassign(worker, message.reason, waiting)
                elif isinstance(message, Ready):
                    self._capacity[worker], self._assigned[worker] = message.capacity, {}
                # a late result of a worker that was given up is dropped: its row has gone to another one
                elif self._assigned.get(worker, {}).pop(self._result_key(message), None) is not None:
                    yield message
            if not self._alive:
                raise UserError(
                    f"all workers are lost ({self._reason}); what is finished is kept, start the run again to go on"
                )

    def _assign(self, waiting: deque[Any]) -> None:
        for worker, capacity in self._capacity.items():
            # the last pieces are given out in small parts, so that the workers end together
            room = min(capacity - len(self._assigned[worker]), max(1, len(waiting) // (2 * len(self._capacity))))
            taken = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            if taken:
                self._assigned[worker].update((self._work_key(each), each) for each in taken)
                self._workers.send(worker, taken)

    def _reassign(self, worker: int, reason: str, waiting: deque[Any]) -> None:
        self._reason = reason
        self._alive.discard(worker)
        self._capacity.pop(worker, None)
        back = self._assigned.pop(worker, {})
        waiting.extendleft(reversed(back.values()))
        log.warning("worker %d is lost (%s); %d rows go to the others", worker, reason, len(back))


def drain(source: queue.Queue[Any] | queue.SimpleQueue[Any], timeout: float) -> list[Any]:
    """All pieces in a queue; waits up to ``timeout`` seconds for the first."""
    found = []
    with suppress(queue.Empty):
        found.append(source.get(timeout=timeout))
        while True:
            found.append(source.get_nowait())
    return found


def queued_batches(work: WorkQueue, size: int) -> Iterator[list[Any]]:
    """Batches of at most ``size`` pieces of what the queue has; nothing waits for a full batch."""
    ended = False
    while not ended:
        batch: list[Any] = []
        while len(batch) < size and not ended:
            try:
                piece = work.get(block=not batch)
            except queue.Empty:
                break
            if piece is None:
                ended = True
            else:
                batch.append(piece)
        if batch:
            yield batch
