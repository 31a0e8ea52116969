"""Workers as processes of this machine, one for each GPU."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from src.common.child_process import end_process, end_with_parent
from src.common.errors import UserError, explain, one_line
from src.common.log import setup_logging
from src.inference.workers import POLL_SECONDS, WORKER_TIMEOUT, Message, SilenceMonitor, WorkerDied, WorkerMain, drain

END_SECONDS = 20.0
"""How long a worker may take to end by itself."""
_ENDED = object()
_Pieces = queue.SimpleQueue[Any]


class LocalWorkers:
    """Processes that run ``main``, and end when this process does, however it ends.

    ``devices`` are given out in turn, as ``CUDA_VISIBLE_DEVICES``; without any the workers share the CPU's cores. A
    worker without a sign of life for ``timeout`` seconds is killed.
    """

    def __init__(
        self, main: WorkerMain, count: int, devices: Sequence[str] = (), timeout: float = WORKER_TIMEOUT
    ) -> None:
        self.count = count
        self._monitor = SilenceMonitor(timeout)
        self._messages = _Pieces()
        self._work: dict[int, _Pieces] = {}
        self._processes: list[Any] = []
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
        atexit.register(self.close)  # multiprocessing waits for its processes when this one exits
        for number in range(count):
            ours, theirs = context.Pipe()
            arguments = (theirs, main, self._monitor.interval)
            process = context.Process(target=_run_worker, args=arguments, name=f"worker-{number}")
            device = devices[number % len(devices)] if devices else None
            with _environment(worker_environment(count, device)):  # read by torch and vLLM when they are imported
                process.start()
            theirs.close()  # with a copy here, the pipe would not end with the worker
            self._processes.append(process)
            self._monitor.saw(number)
            self._work[number] = _Pieces()
            # A pipe to or from a stopped process blocks as soon as it is full: this thread must not wait for it.
            threading.Thread(target=_write, args=(ours, self._work[number]), daemon=True).start()
            threading.Thread(target=_read, args=(ours, number, self._messages), daemon=True).start()

    def send(self, worker: int, work: Sequence[Any]) -> None:
        """Give work to a worker; that of one which has ended is reassigned when its end is reported."""
        if worker in self._work:
            self._work[worker].put(list(work))

    def wait(self) -> Iterable[tuple[int, Message]]:
        """Messages of workers; :class:`WorkerDied` for one whose process has ended or was killed."""
        messages: list[tuple[int, Message]] = []
        for number, message in drain(self._messages, POLL_SECONDS):
            if number not in self._work:
                continue
            self._monitor.saw(number, message)
            if message is _ENDED:
                self._processes[number].join(END_SECONDS)  # a process that was not waited for has no exit code
                message = WorkerDied(f"its process ended with exit code {self._processes[number].exitcode}")
            if isinstance(message, WorkerDied):
                self._drop(number)
            if message is not None:
                messages.append((number, message))
        for number, died in self._monitor.overdue():
            _kill(self._processes[number])
            self._drop(number)
            messages.append((number, died))
        return messages

    def close(self) -> None:
        """End the processes: by themselves, or after some seconds by force."""
        atexit.unregister(self.close)
        for number in list(self._work):
            self._drop(number)
        for process in self._processes:
            process.join(END_SECONDS)
            if process.is_alive():
                _kill(process)

    def _drop(self, number: int) -> None:
        self._work.pop(number).put(None)
        self._monitor.forget(number)


def worker_environment(count: int, device: str | None) -> dict[str, str]:
    """Environment of one of ``count`` workers: its GPU, or its share of the cores."""
    if device is not None:
        return {"CUDA_VISIBLE_DEVICES": device}
    # vLLM would bind the threads of every worker to the same cores, as each of them has the machine for itself
    share = max(1, (os.cpu_count() or 1) // count)
    given = {"OMP_NUM_THREADS": str(share), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {name: value for name, value in given.items() if name not in os.environ}


def _write(pipe: Connection, work: _Pieces) -> None:
    """Send work to a worker; ``None``, the last piece, ends it."""
    with suppress(OSError):
        while True:
            pieces = work.get()
            pipe.send(pieces)
            if pieces is None:
                return


def _read(pipe: Connection, number: int, messages: _Pieces) -> None:
    """Receive a worker's messages until its process ends."""
    with suppress(EOFError, OSError):
        while True:
            messages.put((number, pipe.recv()))
    messages.put((number, _ENDED))


def _kill(process: Any) -> None:
    """Kill a worker and what it has started, such as vLLM's engine process, which holds the GPU."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def _run_worker(pipe: Connection, main: WorkerMain, interval: float) -> None:
    """Main function of a worker's process."""
    end_with_parent(END_SECONDS)
    setup_logging()
    work: queue.Queue[Any] = queue.Queue()
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock:  # a message in two pieces must not have a sign of life between them
            pipe.send(message)

    def send_signs_of_life() -> None:
        with suppress(OSError):
            while not ended.wait(interval):
                send(None)

    ended = threading.Event()
    threading.Thread(target=send_signs_of_life, daemon=True).start()
    threading.Thread(target=_receive, args=(pipe, work), daemon=True).start()
    try:
        main(work, send)
    except (KeyboardInterrupt, BrokenPipeError, ConnectionError):
        return
    except UserError as error:
        send(WorkerDied(str(error)))
    except Exception as error:
        reason = explain(error)
        send(WorkerDied(reason or one_line(error)))
        if reason is None:
            raise
    finally:
        ended.set()


def _receive(pipe: Connection, work: queue.Queue[Any]) -> None:
    """Put work from the pipe into the queue; at its end the run is over."""
    with suppress(EOFError, OSError):
        while (pieces := pipe.recv()) is not None:
            for piece in pieces:
                work.put(piece)
    work.put(None)
    end_process(END_SECONDS)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
