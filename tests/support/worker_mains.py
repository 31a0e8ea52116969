"""Bodies of workers that start at once: each result names the process that made it. And runs over them."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

from src.inference.workers import Dispatcher, Ready, Send, Workers, WorkQueue


def name_process(folder: Path, seconds: float, work: WorkQueue, send: Send) -> None:
    """Each piece takes ``seconds``; a file below ``folder`` is named by the process."""
    (folder / f"worker-{os.getpid()}").touch()
    send(Ready(3))
    while (piece := work.get()) is not None:
        time.sleep(seconds)
        send({"key": str(piece), "pid": os.getpid(), "environment": dict(os.environ)})


def load_slowly(folder: Path, seconds: float, hold_lock: bool, work: WorkQueue, send: Send) -> None:
    """Like :func:`name_process` after ``seconds`` of loading, in which Python's global lock may be held."""
    if hold_lock:
        import ctypes

        ctypes.PyDLL(None).usleep(int(seconds * 10**6))
    else:
        time.sleep(seconds)
    name_process(folder, 0.25, work, send)  # long enough for a worker that was placed some seconds later to get some


def run(workers: Workers, count: int) -> list[dict[str, Any]]:
    """Results of ``count`` pieces of work."""
    dispatcher = Dispatcher(workers, str, lambda result: result["key"])
    return list(dispatcher.run(range(count)))


def pids(folder: Path, count: int, seconds: float = 120) -> list[int]:
    """Processes of the workers, once there are ``count``."""
    until = time.monotonic() + seconds
    while len(found := list(folder.glob("worker-*"))) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} workers have started"
        time.sleep(0.05)
    return [int(path.name.removeprefix("worker-")) for path in found]


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(processes: list[int], seconds: float) -> list[int]:
    """Those of the processes that live for longer than ``seconds``."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in processes if is_alive(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


if __name__ == "__main__":
    from src.inference.local_workers import LocalWorkers

    run(LocalWorkers(functools.partial(name_process, Path(sys.argv[1]), 0.2), 2), 10000)
