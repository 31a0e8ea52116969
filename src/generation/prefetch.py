"""Preparing the next items in a thread while the present ones are worked on, never more than a few ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    """Marks the end of the items, with the exception that caused it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetcher(Generic[T]):
    """Runs through ``items`` in a thread, at most ``depth`` items ahead of :meth:`take`."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=max(1, depth))
        self._closed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether :meth:`take` has met the end of the items."""
        return self._ended

    def take(self, wait: bool) -> T | None:
        """The next item; ``None`` at the end, and also where no item is ready unless ``wait``.

        Raises what the iteration of the items raised, at the place where it happened.
        """
        if self._ended:
            return None
        try:
            item = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(item, _End):
            self._ended = True
            if item.error is not None:
                raise item.error
            return None
        return item

    def close(self) -> None:
        """Stop preparing items and wait for the thread."""
        self._closed.set()
        while self._thread.is_alive():
            self._drop_ready()  # makes room for a thread that waits to put
            self._thread.join(timeout=0.05)

    def _drop_ready(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return

    def _fill(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if self._closed.is_set():
                    return
                self._queue.put(item)
        except BaseException as raised:  # noqa: BLE001 - handed to the consumer, which raises it
            error = raised
        finally:
            if not self._closed.is_set():
                self._queue.put(_End(error))
