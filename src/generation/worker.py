"""Turns rows of a data set into records with the models of one process: of the run, or of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from src.generation.config import read_run_config
from src.generation.input_dataset import RowRef
from src.generation.job import Job, prepare
from src.generation.task_types import Task
from src.inference.chat_endpoint import ChatEndpoint, chat_requests
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.inference.load import load_ensemble, load_vllm
from src.inference.prompt_builder import PromptBuilder, audio_requests, text_requests
from src.inference.types import Request, Result
from src.inference.workers import Ready, Send, WorkQueue, queued_batches

Record = dict[str, Any]
"""Stored result of a row, with its ``key``."""


@dataclass(frozen=True)
class Models:
    """Loaded models of a job: the engine, and audio embedders if clips are encoded; or a chat endpoint."""

    engine: Engine | ChatEndpoint
    ensemble: EmbedderEnsemble | None


Start = Callable[[Job], Models]


def start_models(job: Job) -> Models:
    """Load vLLM with the job's language model, and the checkpoints' audio embedders next to it.

    A job with an endpoint loads nothing.
    """
    if job.config.endpoint is not None:
        return Models(ChatEndpoint(job.config.endpoint, job.reasoning), None)
    ensemble = load_ensemble(job.config.checkpoints, job.config.model) if job.config.uses_audio else None
    return Models(load_vllm(job.llm, job.config.engine), ensemble)


def answer_rows(job: Job, models: Models, batches: Iterable[Sequence[RowRef]]) -> Iterator[Record]:
    """Records of the rows as they finish; ``batches`` are taken as there is room, and encoded together."""
    for result in models.engine.run(make_requests(job, models, batches), job.sampling()):
        yield to_record(result)


def make_requests(job: Job, models: Models, batches: Iterable[Sequence[RowRef]]) -> Iterator[Request]:
    """Requests of the rows, each batch prepared when its first request is taken."""
    engine, ensemble = models.engine, models.ensemble
    system = job.task.system(job.prompts)
    items = (list(job.items(batch)) for batch in batches)  # lazily: audio of one batch is in memory at a time
    if isinstance(engine, ChatEndpoint):
        rows = (item for batch in items for item in batch)
        return chat_requests(rows, job.prompts, system, job.config.audio_input, engine.config.audio_formats)
    if ensemble is None:
        builder = PromptBuilder(engine.tokenizer, job.prompts, system)
        read = job.config.audio_input == "description"
        return text_requests((item for batch in items for item in batch), builder, read)
    builder = PromptBuilder(engine.tokenizer, job.prompts, system, ensemble.explicit_tags)
    return audio_requests(items, ensemble, builder, ensemble.max_clip_seconds(engine.backend.context))


def to_record(result: Result) -> Record:
    """Record of a result: all that a run stores of it."""
    scores = {} if result.option_logprobs is None else {"option_logprobs": result.option_logprobs}
    usage = {} if result.usage is None else {"usage": asdict(result.usage)}
    return {
        "key": result.key,
        "status": result.status,
        "response": None if result.error is not None else result.text,
        "finish_reason": result.finish_reason,
        "budget_hit": result.budget_hit,
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "error": result.error,
        **scores,
        **usage,
    }


def answer_queue(raw: Mapping[str, Any], task: Task, start: Start | None, work: WorkQueue, send: Send) -> None:
    """Body of a worker: sends records of the rows in ``work`` until it ends.

    ``raw`` is the resolved configuration of the run.
    """
    job = prepare(read_run_config(raw), task)
    models = (start or start_models)(job)
    try:
        size = job.config.batch_size
        # beyond those in the engine, a batch whose clips are encoded now and the next one
        send(Ready(models.engine.capacity + 2 * size))
        for record in answer_rows(job, models, queued_batches(work, size)):
            send(record)
    finally:
        models.engine.close()
