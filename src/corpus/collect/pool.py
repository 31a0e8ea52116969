"""Work in processes: a bounded number of pieces under way, and a process that dies takes nothing with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from src.common.log import get_logger

T = TypeVar("T")
R = TypeVar("R")
_log = get_logger(__name__)
_AHEAD = 2
"""Pieces under way for each process: one worked on, one waiting."""


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
    source = iter(items)
    while True:
        unfinished: list[T] = []
        with _pool(processes, setup, setup_args) as pool:
            yield from _run(pool, work, source, processes, unfinished)
        if not unfinished:
            return
        _log.warning("a worker process died; %d pieces of work are tried again one by one", len(unfinished))
        for item in unfinished:
            yield _alone(work, item, after_crash, setup, setup_args)


def _run(
    pool: ProcessPoolExecutor, work: Callable[[T], R], source: Iterator[T], processes: int, unfinished: list[T]
) -> Iterator[R]:
    """Results until the source ends or the pool breaks; then ``unfinished`` holds what was under way."""
    under_way: dict[Future[R], T] = {}
    try:
        while True:
            for item in itertools.islice(source, _AHEAD * processes - len(under_way)):
                under_way[_submit(pool, work, item)] = item
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del under_way[future]
                yield result
    except BrokenProcessPool:
        unfinished.extend(under_way.values())


def _submit(pool: ProcessPoolExecutor, work: Callable[[T], R], item: T) -> Future[R]:
    try:
        return pool.submit(work, item)
    except BrokenProcessPool as error:
        failed: Future[R] = Future()
        failed.set_exception(error)
        return failed


def _alone(
    work: Callable[[T], R],
    item: T,
    after_crash: Callable[[T], T],
    setup: Callable[..., None] | None,
    setup_args: tuple[Any, ...],
) -> R:
    while True:
        with _pool(1, setup, setup_args) as pool:
            try:
                return pool.submit(work, item).result()
            except BrokenProcessPool:
                item = after_crash(item)


def _pool(processes: int, setup: Callable[..., None] | None, setup_args: tuple[Any, ...]) -> ProcessPoolExecutor:
    # Spawned, not forked: the parent may hold threads of the libraries it has opened data with.
    return ProcessPoolExecutor(processes, get_context("spawn"), setup, setup_args)
