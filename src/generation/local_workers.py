"""Data parallel on one machine: one process for each GPU, with a front end and an engine of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from src.common.errors import UserError
from src.common.log import setup_logging
from src.common.machine import explain, one_line
from src.generation.work import Lost, Message, Service

END_SECONDS = 20.0
"""How long a worker may take to end by itself."""


class LocalWorkers:
    """Processes of this machine that do ``service``.

    They are tied to this one by a pipe each, and end when it does, however it ends. ``devices`` are given out in
    turn, as ``CUDA_VISIBLE_DEVICES``; without any the workers share the CPU's cores.
    """

    def __init__(self, service: Service, count: int, devices: Sequence[str] = ()) -> None:
        self.count = count
        self._pipes: dict[int, Any] = {}
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_main, args=(theirs, service), name=f"worker-{number}")
            device = devices[number % len(devices)] if devices else None
            with _environment(worker_environment(count, device)):  # read by torch and vLLM when they are imported
                process.start()
            theirs.close()
            self._pipes[number] = ours
            self._processes.append(process)

    def send(self, worker: int, rows: Sequence[Any]) -> None:
        """Give work to a worker."""
        try:
            self._pipes[worker].send(list(rows))
        except (BrokenPipeError, ConnectionError, KeyError):
            return  # its end is told by the next wait

    def wait(self) -> Iterator[tuple[int, Message]]:
        """What workers have told; :class:`Lost` for one whose process has ended."""
        number_of = {id(pipe): number for number, pipe in self._pipes.items()}
        for pipe in cast(list[Any], wait(list(self._pipes.values()))):
            number = number_of[id(pipe)]
            message: Message
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                self._processes[number].join(END_SECONDS)
                message = Lost(f"its process ended with exit code {self._processes[number].exitcode}")
            if isinstance(message, Lost):
                self._pipes.pop(number).close()
            yield number, message

    def close(self) -> None:
        """End the processes: by themselves, or after some seconds by force."""
        for pipe in self._pipes.values():
            pipe.close()
        for process in self._processes:
            process.join(END_SECONDS)
            if process.is_alive():
                process.kill()


def worker_environment(count: int, device: str | None) -> dict[str, str]:
    """Environment of one of ``count`` workers: its GPU, or its share of the cores."""
    if device is not None:
        return {"CUDA_VISIBLE_DEVICES": device}
    share = max(1, (os.cpu_count() or 1) // count)
    given = {"OMP_NUM_THREADS": str(share), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {name: value for name, value in given.items() if name not in os.environ}


def _main(pipe: Connection, service: Service) -> None:
    """A worker's process."""
    setup_logging()
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    try:
        service(inbox, pipe.send)
    except (KeyboardInterrupt, BrokenPipeError, ConnectionError):
        return
    except UserError as error:
        pipe.send(Lost(str(error)))
    except Exception as error:
        reason = explain(error)
        pipe.send(Lost(reason or one_line(error)))
        if reason is None:
            raise


def _receive(pipe: Connection, inbox: queue.Queue[Any]) -> None:
    """Rows from the pipe; when it closes, the run is over, or its process is gone."""
    try:
        while True:
            for row in pipe.recv():
                inbox.put(row)
    except (EOFError, OSError):
        inbox.put(None)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Event().wait(END_SECONDS)
        os._exit(1)


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
