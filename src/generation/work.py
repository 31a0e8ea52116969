"""What one worker does: it loads a job's models, and turns rows into records."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from src.generation.config import read_run_config
from src.generation.ears import Ears, front_end_dtypes
from src.generation.engine import Engine
from src.generation.job import Job, prepare
from src.generation.requests import Request, Result
from src.generation.respond import Turns, hearing_requests, text_requests
from src.generation.tables import RowRef
from src.generation.tasks import find_task

Record = dict[str, Any]
"""What a shard keeps of a row, with its ``key``."""


@dataclass(frozen=True)
class Models:
    """What is loaded for a job: the engine, and front ends if clips are heard."""

    engine: Engine
    ears: Ears | None


Start = Callable[[Job], Models]


def start_models(job: Job) -> Models:
    """vLLM with the job's language model, and the checkpoints' front ends beside it."""
    import torch

    from src.generation.vllm_core import VllmEngine, prepare_environment
    from src.generation.vllm_lora import prepared_llm

    prepare_environment()
    device, dtypes = "cuda:0" if torch.cuda.is_available() else "cpu", front_end_dtypes(job.config.model)
    ears = Ears.load(job.config.checkpoints, device, *dtypes) if job.config.hears else None
    with prepared_llm(job.llm, job.llm_revision, job.lora, job.config.engine.lora) as (llm, revision, lora):
        return Models(VllmEngine(llm, job.config.engine, revision, lora), ears)


def answer_rows(job: Job, models: Models, batches: Iterable[Sequence[RowRef]]) -> Iterator[Record]:
    """Records of the rows as they finish; ``batches`` are taken as there is room, and encoded together."""
    for result in models.engine.run(make_requests(job, models, batches), job.sampling()):
        yield to_record(result)


def make_requests(job: Job, models: Models, batches: Iterable[Sequence[RowRef]]) -> Iterator[Request]:
    """Requests of the rows, prepared as they are asked for."""
    engine, ears = models.engine, models.ears
    system = job.task.system(job.prompts)
    items = (list(job.items(batch)) for batch in batches)
    if ears is None:
        turns = Turns(engine.tokenizer, job.prompts, system)
        read = job.config.audio_input == "description"
        return text_requests((item for batch in items for item in batch), turns, read)
    turns = Turns(engine.tokenizer, job.prompts, system, ears.explicit_tags)
    return hearing_requests(items, ears, turns, ears.longest(engine.core.context))


def to_record(result: Result) -> Record:
    """What a shard keeps of a result."""
    return {
        "key": result.key,
        "status": result.status,
        "response": None if result.error is not None else result.text,
        "finish_reason": result.finish_reason,
        "budget_hit": result.budget_hit,
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "error": result.error,
    }


@dataclass(frozen=True)
class Ready:
    """A worker's models are loaded; it takes ``capacity`` rows at a time."""

    capacity: int


@dataclass(frozen=True)
class Lost:
    """A worker has ended before its rows were done."""

    reason: str


Message = Any
"""What a worker tells: that it is :class:`Ready`, something finished, that it is :class:`Lost`."""


class Inbox(Protocol):
    """Work for a worker, ``None`` at its end: a ``queue.Queue``."""

    def get(self, block: bool = True) -> Any:
        """The next piece of work."""


Tell = Callable[[Message], None]
Service = Callable[[Inbox, Tell], None]
"""What a worker does: it loads what it needs, tells that it is ready, and works until its inbox ends."""


def serve(raw: Mapping[str, Any], task: str, start: Start | None, inbox: Inbox, tell: Tell) -> None:
    """Answer rows from ``inbox`` until it ends, with models of this worker's own.

    ``raw`` is the resolved configuration of the run, ``task`` the name of its task.
    """
    job = prepare(read_run_config(raw), find_task(task, raw.get("options_seed")))
    models = (start or start_models)(job)
    try:
        size = job.config.batch_size
        tell(Ready(models.engine.capacity + 2 * size))
        for record in answer_rows(job, models, arriving(inbox, size)):
            tell(record)
    finally:
        models.engine.close()


def arriving(inbox: Inbox, size: int) -> Iterator[list[Any]]:
    """Batches of what is there, at most ``size`` pieces; nothing waits for a full batch."""
    ended = False
    while not ended:
        batch: list[Any] = []
        while len(batch) < size and not ended:
            try:
                row = inbox.get(block=not batch)
            except queue.Empty:
                break
            if row is None:
                ended = True
            else:
                batch.append(row)
        if batch:
            yield batch
