"""A run over a data set: rows -> requests -> engine -> shards -> the published folder. Killed runs continue."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.common.config import bind_dataclass
from src.common.log import get_logger
from src.common.run_record import write_run_record
from src.generation.config import RunConfig
from src.generation.engine import Engine
from src.generation.job import Job, prepare
from src.generation.requests import Request, Result, Sampling
from src.generation.respond import Ears, Turns, hearing_requests, text_requests
from src.generation.shards import Shards
from src.generation.tables import Table
from src.generation.tasks import FREE, Task, shuffled_choice

log = get_logger(__name__)


def generate_free(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm.py``: free questions. Returns the exit code."""
    return generate(config, FREE)


def generate_choices(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm_mcqa.py``: multiple choice. Returns the exit code."""
    return generate(config, shuffled_choice(config.get("options_seed")))


def generate(raw: Mapping[str, Any], task: Task, start: Callable[[Job], Models] | None = None) -> int:
    """Run the resolved configuration ``raw``; rows that fail are saved with their reason and counted.

    ``start`` loads engine and front ends when there are rows to do (default :func:`start_models`).
    """
    from datasets import disable_progress_bars

    disable_progress_bars()  # ours is the one of the run
    config = bind_dataclass(RunConfig, raw, "config")
    if config.cuda_devices is not None:
        devices = config.cuda_devices
        listed = ",".join(map(str, devices)) if isinstance(devices, list) else str(devices)
        os.environ["CUDA_VISIBLE_DEVICES"] = listed
    job = prepare(config, task)
    settings = job.settings()
    with Shards(job.directory, settings, config.overwrite) as shards:
        records = shards.read()
        pending = job.pending(records)
        log.info("%s: %d rows to do, %d done before", job.directory, len(pending), job.rows - len(pending))
        started = time.monotonic()
        if pending:
            _run_pending(job, pending, shards, records, start or start_models)
    counts = job.finish(records)
    write_run_record(
        job.directory,
        raw,
        task=task.name,
        settings=settings,
        splits=counts,
        rows_this_run=len(pending),
        seconds_this_run=round(time.monotonic() - started, 1),
    )
    _report_errors(job, records)
    return 0


@dataclass(frozen=True)
class Models:
    """What is loaded for a run: the engine, and front ends if clips are heard."""

    engine: Engine
    ears: Ears | None


def start_models(job: Job) -> Models:
    """vLLM with the job's language model, and the checkpoints' front ends beside it."""
    import torch

    from src.generation.vllm_core import VllmEngine, prepare_environment
    from src.generation.vllm_lora import prepared_llm

    prepare_environment()
    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda:0", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    ears = Ears.load(job.config.checkpoints, device, dtype) if job.config.hears else None
    with prepared_llm(job.llm, job.llm_revision, job.lora, job.config.engine.lora) as (llm, revision, lora):
        return Models(VllmEngine(llm, job.config.engine, revision, lora), ears)


def _run_pending(
    job: Job,
    pending: list[tuple[Table, str, int]],
    shards: Shards,
    records: dict[str, dict[str, Any]],
    start: Callable[[Job], Models],
) -> None:
    models = start(job)
    try:
        requests = make_requests(job, pending, models)
        for record in respond(models.engine, requests, job.sampling(), len(pending)):
            shards.append(record)
            records[record["key"]] = record
    finally:
        models.engine.close()


def make_requests(job: Job, pending: list[tuple[Table, str, int]], models: Models) -> Iterator[Request]:
    """Requests of the pending rows, prepared as they are asked for."""
    items, engine, ears = job.items(pending), models.engine, models.ears
    system = job.task.system(job.prompts)
    if ears is None:
        turns = Turns(engine.tokenizer, job.prompts, system)
        return text_requests(items, turns, read=job.config.audio_input == "description")
    turns = Turns(engine.tokenizer, job.prompts, system, ears.explicit_tags)
    return hearing_requests(items, ears, turns, job.config.batch_size)


def respond(engine: Engine, requests: Iterator[Request], sampling: Sampling, total: int) -> Iterator[dict[str, Any]]:
    """Records of finished rows, with a progress bar: rows/s and tokens/s."""
    from tqdm import tqdm

    started, tokens = time.monotonic(), 0
    interval = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=total, unit="row", mininterval=interval, dynamic_ncols=True) as bar:
        for result in engine.run(requests, sampling):
            tokens += result.num_tokens
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update()
            yield to_record(result)


def to_record(result: Result) -> dict[str, Any]:
    """What a shard keeps of a result."""
    return {
        "key": result.key,
        "response": None if result.error is not None else result.text,
        "finish_reason": result.finish_reason,
        "budget_hit": result.budget_hit,
        "num_tokens": result.num_tokens,
        "seconds": result.seconds,
        "error": result.error,
    }


def _report_errors(job: Job, records: Mapping[str, Mapping[str, Any]]) -> None:
    keys = [table.key(row) for table, _ in job.tables for row in table.positions]
    errors = {key: str(records[key]["error"]) for key in keys if records[key]["error"] is not None}
    log.info("%d rows in %s", len(keys), job.directory)
    if errors:
        log.warning(
            "%d of %d rows have no answer (column error); %d different reasons, the first for %s: %s",
            len(errors),
            len(keys),
            len(set(errors.values())),
            *next(iter(errors.items())),
        )
