"""Models of workers that are processes of their own: scripted engines, started by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from src.generation.job import Job
from src.generation.worker import Models
from src.inference.engine import Engine
from src.inference.scheduler import StepOutput
from tests.generation.fakes import ScriptedBackend
from tests.prompts.fakes import CharTokenizer


class _SlowBackend(ScriptedBackend):
    def step(self) -> list[StepOutput]:
        time.sleep(0.002)
        return super().step()


def start_scripted(job: Job) -> Models:
    """Text alone; the answer tells the question and the process that gave it. Two workers wait for each other."""
    _meet(Path(job.directory).parent, 2)
    backend = _SlowBackend(lambda prompt: f"{os.getpid()}</think>{prompt}", width=192)
    return Models(Engine(backend, CharTokenizer(), 3, 2), None)


def start_mortal(job: Job) -> Models:
    """One of the workers is killed after its first answer, without a word."""
    models = start_scripted(job)
    backend = models.engine.backend
    assert isinstance(backend, ScriptedBackend)
    if os.environ.get("WORKER_TO_KILL") is None or not _first():
        return models
    step = backend.step

    def deadly() -> list:
        finished = step()
        if finished:
            os.kill(os.getpid(), signal.SIGKILL)
        return finished

    backend.step = deadly  # type: ignore[method-assign]
    return models


def start_never(job: Job) -> Models:
    """Cannot be loaded."""
    raise MemoryError("no room for the model")


def _meet(folder: Path, count: int) -> None:
    """Wait until so many processes are here: otherwise the first may do all the rows before the next one starts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"here-{os.getpid()}").touch()
    until = time.monotonic() + 60
    while len(list(folder.glob("here-*"))) < count and time.monotonic() < until:
        time.sleep(0.05)


def _first() -> bool:
    """True for one of the processes that ask."""
    try:
        os.close(os.open(os.environ["WORKER_TO_KILL"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
