"""Work in processes: a bounded number of items at once; items of a process that dies are tried again."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from src.common.child_process import end_with_parent
from src.common.errors import MachineError
from src.common.log import get_logger

T = TypeVar("T")
R = TypeVar("R")
_log = get_logger(__name__)
_AHEAD = 2
"""Items under way for each process: one worked on, one waiting."""


def run_all(
    work: Callable[[T], R],
    items: Iterable[T],
    processes: int,
    after_crash: Callable[[T], T],
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
) -> Iterator[R]:
    """Results of ``work`` on all items, in the order in which they are done.

    Args:
        processes: worker processes; 0 works in this process.
        after_crash: called with an item whose process died (a decoder can end it); what it returns is tried instead.
            It must leave out what was under way, else the item is tried for ever.
        setup: called with ``setup_args`` once in every worker.
    """
    if processes == 0:
        if setup is not None:
            setup(*setup_args)
        yield from map(work, items)
        return
    # Spawned, not forked: the parent may hold threads of the libraries it has opened data with.
    new_pool = functools.partial(
        ProcessPoolExecutor, mp_context=get_context("spawn"), initializer=_begin, initargs=(setup, setup_args)
    )
    source = iter(items)
    while True:
        under_way: dict[Future[R], T] = {}
        with new_pool(processes) as pool, suppress(BrokenProcessPool):
            yield from _results(pool, work, source, processes, under_way)
        if not under_way:
            return
        _log.warning("a worker process died; %d pieces of work are tried again one by one", len(under_way))
        for item in under_way.values():
            yield _run_alone(new_pool, work, item, after_crash)


def crashed_at(mark: Path, crashed: Collection[int], what: str) -> int:
    """Number, in the file ``mark``, of what a worker process was working on when it died.

    Raises :class:`MachineError` if that was nothing, or one of ``crashed``, which are left out already: then the
    process died for another reason, such as a lack of memory, and no file is at fault.
    """
    text = mark.read_text().strip() if mark.is_file() else ""
    if not text or int(text) in crashed:
        raise MachineError(
            f"{what}: a worker process died while it read no file; is memory left? Start again to go on, with fewer "
            "processes (--jobs)"
        )
    return int(text)


def _results(
    pool: ProcessPoolExecutor,
    work: Callable[[T], R],
    source: Iterator[T],
    processes: int,
    under_way: dict[Future[R], T],
) -> Iterator[R]:
    """Results until the source ends. Raises :class:`BrokenProcessPool`, with unfinished items in ``under_way``."""
    while True:
        for item in itertools.islice(source, _AHEAD * processes - len(under_way)):
            future: Future[R] = Future()
            try:
                future = pool.submit(work, item)
            finally:
                under_way[future] = item  # also if the pool is broken already
        if not under_way:
            return
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            result = future.result()
            del under_way[future]
            yield result


def _run_alone(
    new_pool: Callable[[int], ProcessPoolExecutor], work: Callable[[T], R], item: T, after_crash: Callable[[T], T]
) -> R:
    while True:
        with new_pool(1) as pool:
            try:
                return pool.submit(work, item).result()
            except BrokenProcessPool:
                item = after_crash(item)


def _begin(setup: Callable[..., None] | None, setup_args: tuple[Any, ...]) -> None:
    end_with_parent()  # the workers of an executor hold both ends of its pipes, so that none sees the parent's end
    if setup is not None:
        setup(*setup_args)
