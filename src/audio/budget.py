"""Memory that all clips of a process share, and samples that all clips of a request share."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any

from src.audio.errors import AudioError, NoMemory

_budgets: weakref.WeakSet[MemoryBudget] = weakref.WeakSet()


def _clear_all() -> None:
    for budget in list(_budgets):
        budget._clear()


# a forked worker (of a data loader) has none of the threads that hold what was taken
os.register_at_fork(after_in_child=_clear_all)


class MemoryBudget:
    """Bytes that may be taken at a time. One that asks for more than there is at all gets it once it is alone."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._clear()
        _budgets.add(self)

    def _clear(self) -> None:
        self._taken = 0
        self._changed = threading.Condition(threading.RLock())  # finalizers may run while it is held

    @property
    def taken(self) -> int:
        """Bytes taken at the moment."""
        return self._taken

    def reserve(self, count: int, name: str, wait_seconds: float | None) -> Reservation:
        """Take ``count`` bytes, as soon as there is room.

        ``wait_seconds`` bounds the waiting, and a request beyond the whole budget is refused at once; ``None``: waits
        for as long as others are decoding. Raises :class:`NoMemory`.
        """
        reservation = Reservation(self)
        self._take(count, name, wait_seconds)
        reservation.count = count
        return reservation

    def _take(self, count: int, name: str, wait_seconds: float | None) -> None:
        until = None if wait_seconds is None else time.monotonic() + wait_seconds
        with self._changed:
            while self._taken + count > self.size:
                if until is None and self._taken == 0:
                    break
                left = None if until is None else until - time.monotonic()
                if left is not None and (left <= 0 or count > self.size):
                    reason = (
                        f"needs {count >> 20} MiB; clips in work hold {self._taken >> 20} of {self.size >> 20} MiB"
                    )
                    raise NoMemory(f"{name}: {reason}; send shorter clips, or fewer at a time", "too_long")
                self._changed.wait(left)
            self._taken += count

    def _more(self, count: int) -> None:
        with self._changed:
            self._taken += count

    def _give(self, count: int) -> None:
        with self._changed:
            self._taken = max(0, self._taken - count)  # less than was taken in a forked process
            self._changed.notify_all()


class Reservation:
    """Bytes taken from a :class:`MemoryBudget`, given back once."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.count = 0

    def grow(self, count: int, name: str, wait_seconds: float | None) -> None:
        """Take more. Without ``wait_seconds`` it is taken at once: two that wait for each other would never end."""
        if wait_seconds is None:
            self._budget._more(count)
        else:
            self._budget._take(count, name, wait_seconds)
        self.count += count

    def shrink(self, count: int) -> None:
        """Give back what is beyond ``count`` bytes."""
        extra = self.count - count
        if extra > 0:
            self.count = count
            self._budget._give(extra)

    def release(self) -> None:
        """Give all back."""
        count, self.count = self.count, 0
        if count:
            self._budget._give(count)

    def until_dropped(self, owner: Any) -> None:
        """Give all back when ``owner`` (an array) and everything that shares its memory is gone."""
        while getattr(owner, "base", None) is not None:
            owner = owner.base
        weakref.finalize(owner, self.release)


class Allowance:
    """Samples that all clips of one request may decode to together."""

    def __init__(self, samples: int) -> None:
        self._left = self.samples = samples
        self._lock = threading.Lock()

    @property
    def exhausted(self) -> bool:
        """Whether more was asked for than there was."""
        return self._left < 0

    def take(self, count: int, name: str) -> None:
        """Use ``count`` samples. Raises :class:`AudioError` if fewer are left."""
        with self._lock:
            self._left -= count
            if self._left < 0:
                raise AudioError(
                    f"{name}: the clips of one request decode to more than {self.samples} samples", "too_long"
                )
