"""Prepares the next items in a thread while the present ones are worked on, at most a few ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END: Any = object()


class Prefetcher(Generic[T]):
    """Iterates ``items`` in a thread, at most ``depth`` items ahead of :meth:`take`; each is made ``within`` a
    context."""

    def __init__(
        self, items: Iterable[T], depth: int, within: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.ended = False
        """Whether :meth:`take` has reached the end of the items."""
        self._items, self._within = items, within
        # an item in a tuple, the exception that ended the iteration, or None at its end
        self._queue: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=max(1, depth))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def take(self, wait: bool) -> T | None:
        """The next item; ``None`` at the end, and where no item is ready unless ``wait``.

        Raises the exception of the iteration after the items before it.
        """
        if self.ended:
            return None
        try:
            found = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(found, tuple):
            return found[0]
        self.ended = True
        if found is not None:
            raise found
        return None

    def close(self) -> None:
        """Stop preparing items and wait for the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:  # the thread may wait for room, again and again until it sees that it is to stop
                while True:
                    self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _fill(self) -> None:
        end: BaseException | None = None
        try:
            source = iter(self._items)
            while not self._closed.is_set():
                with self._within():
                    item = next(source, _END)
                if item is _END:
                    break
                self._queue.put((item,))
        except BaseException as error:  # noqa: BLE001 - raised again by take
            end = error
        if not self._closed.is_set():
            self._queue.put(end)
