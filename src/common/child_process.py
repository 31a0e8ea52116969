"""Child processes that end with their parent, however the parent ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_CHECK_SECONDS = 0.5
_interrupted = threading.Lock()


def end_with_parent(grace: float = 0.0) -> None:
    """Call once in a process of ``multiprocessing``: it ends when its parent has ended, a SIGKILL included.

    The main thread gets a SIGINT first where it has ``grace`` seconds to end by itself.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process was not started by multiprocessing")
    if sys.platform == "linux":
        # SIGCONT and not SIGKILL: it wakes a stopped process, which then ends below and may free its device. The
        # kernel also sends it when only the thread that started this process ends (prctl(2)); then it does nothing.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(_CHECK_SECONDS)
        end_process(grace)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def end_process(grace: float) -> None:
    """End this process from any thread: by a SIGINT to the main thread, and after ``grace`` seconds by force."""
    if grace > 0 and _interrupted.acquire(blocking=False):  # a second SIGINT would interrupt its cleaning up
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(grace)
    os._exit(1)
