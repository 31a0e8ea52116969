"""Rows to several workers: each is kept busy, none waits for another, and a lost one's rows go to the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from src.common.errors import UserError
from src.common.log import get_logger
from src.generation.tables import RowRef, row_key
from src.generation.work import Lost, Message, Ready, Record, Service

log = get_logger(__name__)


class Workers(Protocol):
    """Started workers, named by their number from 0."""

    count: int

    def send(self, worker: int, rows: Sequence[Any]) -> None:
        """Give work to a worker; returns at once."""

    def wait(self) -> Iterator[tuple[int, Message]]:
        """What workers have told since the last call, at least one message; :class:`Lost` is a worker's last."""

    def close(self) -> None:
        """End all workers."""


OpenWorkers = Callable[[Service], Workers]
"""Starts workers that do a service."""


def choose_workers(
    cluster: str | None, count: int | None, devices: Sequence[str], ray_address: str | None = None
) -> OpenWorkers | None:
    """How workers are started: on a Ray cluster, as processes for ``devices``; ``None`` for one in this process."""
    if cluster == "ray":
        from src.generation.ray_workers import RayWorkers

        return lambda service: RayWorkers(service, count, ray_address)
    number = count or len(devices)
    if number < 2:
        return None
    from src.generation.local_workers import LocalWorkers

    return lambda service: LocalWorkers(service, number, devices)


class Dispatcher:
    """Gives work to workers, run after run.

    ``work_key`` names a piece of work, ``done_key`` names it in what a worker tells of it.
    """

    def __init__(self, workers: Workers, work_key: Callable[[Any], str], done_key: Callable[[Message], str]) -> None:
        self._workers = workers
        self._work_key, self._done_key = work_key, done_key
        self._capacity: dict[int, int] = {}
        self._held: dict[int, dict[str, Any]] = {}
        self._alive = set(range(workers.count))
        self._reason = ""

    def run(self, work: Iterable[Any]) -> Iterator[Any]:
        """What workers tell of the pieces of work, in the order in which they finish.

        Work is pulled as there is room for it. Raises :class:`UserError` when all workers are lost.
        """
        source, waiting, ended = iter(work), deque[Any](), False
        while True:
            ended = ended or self._pull(source, waiting)
            self._give(waiting)
            if ended and not waiting and not any(self._held.values()):
                return
            for worker, message in self._workers.wait():
                if isinstance(message, Lost):
                    self._lose(worker, message.reason, waiting)
                elif isinstance(message, Ready):
                    self._capacity[worker], self._held[worker] = message.capacity, {}
                elif self._held.get(worker, {}).pop(self._done_key(message), None) is not None:
                    yield message
            if not self._alive:
                raise UserError(
                    f"all workers are lost ({self._reason}); what is finished is kept, start the run again to go on"
                )

    def _pull(self, source: Iterator[Any], waiting: deque[Any]) -> bool:
        """Keep twice as much in sight as the workers hold; whether that was the last."""
        while len(waiting) < max(1, 2 * sum(self._capacity.values())):
            try:
                waiting.append(next(source))
            except StopIteration:
                return True
        return False

    def _give(self, waiting: deque[Any]) -> None:
        for worker, most in self._capacity.items():
            # the last pieces are given out in small parts, so that the workers end together
            room = min(most - len(self._held[worker]), max(1, len(waiting) // (2 * len(self._alive))))
            taken = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            if taken:
                self._held[worker].update((self._work_key(each), each) for each in taken)
                self._workers.send(worker, taken)

    def _lose(self, worker: int, reason: str, waiting: deque[Any]) -> None:
        self._reason = reason
        self._alive.discard(worker)
        self._capacity.pop(worker, None)
        back = self._held.pop(worker, {})
        waiting.extendleft(reversed(back.values()))
        log.warning("worker %d is lost (%s); %d rows go to the others", worker, reason, len(back))


def dispatch(workers: Workers, rows: Iterable[RowRef]) -> Iterator[Record]:
    """Records in the order in which they finish. Raises :class:`UserError` when all workers are lost."""
    return Dispatcher(workers, row_key, lambda record: record["key"]).run(rows)
