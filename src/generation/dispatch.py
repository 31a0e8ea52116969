"""Rows to several workers: each is kept busy, none waits for another, and a lost one's rows go to the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from src.common.errors import UserError
from src.common.log import get_logger
from src.generation.tables import RowRef, row_key
from src.generation.work import Lost, Message, Ready, Record

log = get_logger(__name__)


class Workers(Protocol):
    """Started workers, named by their number from 0."""

    count: int

    def send(self, worker: int, rows: Sequence[RowRef]) -> None:
        """Give rows to a worker; returns at once."""

    def wait(self) -> Iterator[tuple[int, Message]]:
        """What workers have told since the last call, at least one message; :class:`Lost` is a worker's last."""

    def close(self) -> None:
        """End all workers."""


OpenWorkers = Callable[[Mapping[str, Any], str], Workers]
"""Starts workers for a resolved configuration and the name of a task."""


def dispatch(workers: Workers, rows: Iterable[RowRef]) -> Iterator[Record]:
    """Records in the order in which they finish. Raises :class:`UserError` when all workers are lost."""
    waiting = deque(rows)
    held: dict[int, dict[str, RowRef]] = {}
    capacity: dict[int, int] = {}
    alive = set(range(workers.count))
    reason = ""
    while waiting or any(held.values()):
        for worker, message in workers.wait():
            if isinstance(message, Lost):
                reason = message.reason
                alive.discard(worker)
                capacity.pop(worker, None)
                back = held.pop(worker, {})
                waiting.extendleft(reversed(back.values()))
                log.warning("worker %d is lost (%s); %d rows go to the others", worker, reason, len(back))
            elif isinstance(message, Ready):
                capacity[worker], held[worker] = message.capacity, {}
            elif held.get(worker, {}).pop(message["key"], None) is not None:
                yield message
        if not alive:
            raise UserError(
                f"all workers are lost ({reason}); what is finished is kept, start the run again to go on"
            )
        for worker, most in capacity.items():
            # the last rows are given out in small parts, so that the workers end together
            room = min(most - len(held[worker]), max(1, len(waiting) // (2 * len(alive))))
            taken = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            if taken:
                held[worker].update((row_key(row), row) for row in taken)
                workers.send(worker, taken)
