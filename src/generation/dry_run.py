"""Dry run: estimates the cost of a run (``dry_run``), or shows prompt and response of one row (``debug_ind``)."""

from __future__ import annotations

import math
import random
import time
from contextlib import closing, suppress
from dataclasses import replace

from src.audio.waveform import AudioError, load_waveform
from src.common.errors import UserError
from src.common.estimate import Estimate, price_of, report
from src.common.log import get_logger
from src.generation.input_dataset import RowRef
from src.generation.job import Job
from src.generation.worker import Start, answer_rows, make_requests
from src.inference.prompt_builder import in_batches
from src.inference.types import Result, prompt_length

log = get_logger(__name__)
WARM_UP_TOKENS = 8


def log_dry_run(job: Job, start: Start) -> None:
    """Log prompt and response of one row (``debug_ind``), or the estimate of a run. Nothing is saved.

    Raises :class:`UserError` if the first split has no such row.
    """
    position, table = job.config.dataset.debug_ind, job.tables[0]
    if position < 0:
        report([("", estimate(job, start))], job.config.dry_run_json, log.info)
        return
    if position >= len(table.data):
        raise UserError(f"dataset.debug_ind={position}: {table.split} has rows 0 to {len(table.data) - 1}")
    models = start(job)
    row = (table.split, position)
    with closing(models.engine):
        (request,) = make_requests(job, models, [[row]])
        (record,) = answer_rows(job, models, [[row]])
    if request.segments:
        parts = list(map(len, request.segments))
        prompt = f"{prompt_length(request.segments)} positions, in parts of {parts}"
    else:
        prompt = f"{len(request.messages)} messages for {job.config.endpoint and job.config.endpoint.url}"
    for line in (
        f"row: {record['key']}, sampling: {job.sampling()}, seed {request.seed}",
        f"prompts: {job.prompts.name} ({job.prompts.source})",
        f"system:\n{job.task.system(job.prompts)}",
        f"user:\n{next(job.items([row])).content}",
        f"prompt: {prompt}",
        f"response, {record['num_tokens']} tokens, {record['finish_reason']}:",
        record["response"] or record["error"],
    ):
        log.info("%s", line)


def estimate(job: Job, start: Start) -> Estimate:
    """Answer a seeded sample of the rows and extrapolate. Loads the models."""
    rows = job.pending({})
    places = min(job.config.engine.max_num_seqs, len(rows))
    if not rows:
        return Estimate(rows=0, sampled=0, bad=0, hours=0.0, tokens=0, seconds=0.0, workers=1)
    # Time depends on how full the engine is, so it is measured with a full one: the sample goes through it in waves
    # of as many rows as it decodes at once, at least one wave.
    wanted = places * math.ceil(job.config.dry_run_rows / places)
    sample = random.Random(0).sample(rows, min(wanted, len(rows)))
    models = start(job)
    sampling, encoding, results = job.sampling(), 0.0, list[Result]()
    with closing(models.engine):
        first = replace(sampling, max_tokens=WARM_UP_TOKENS, max_thinking_tokens=-1)
        list(models.engine.run(make_requests(job, models, [sample[:1]]), first))  # compiles and reserves: not timed
        for wave in in_batches(sample, places):
            started = time.monotonic()
            requests = list(make_requests(job, models, in_batches(wave, job.config.batch_size)))
            encoding += time.monotonic() - started
            results += models.engine.run(requests, sampling)
    workers = job.config.engine.workers or len(job.config.devices) or 1  # 1 for a Ray cluster of unknown size
    # A row takes its share of a place in the engine, which neither the size of the sample nor its longest response
    # changes, and the encoding of its clip.
    decoding = sum(result.seconds for result in results) / places
    longest = max(result.seconds for result in results)
    scale = len(rows) / len(sample)
    seconds = max(scale * (encoding + decoding) / workers, longest)  # no run ends before its longest response
    device, count = _devices(job, workers)
    return Estimate(
        rows=len(rows),
        sampled=len(sample),
        bad=sum(result.error is not None for result in results),
        hours=_seconds_of_audio(job, rows, sample) / 3600 if job.config.uses_audio else None,
        tokens=round(scale * sum(result.num_tokens for result in results)),
        seconds=seconds,
        workers=workers,
        device=device,
        devices=count,
        cost=_cost(job, results, scale, count * seconds / 3600),
    )


def _devices(job: Job, workers: int) -> tuple[str, int]:
    """Kind and number of devices that the run keeps busy on this machine."""
    if job.config.endpoint is not None:
        return "CPU", 1
    from torch.version import cuda  # the build's, which needs no driver and starts nothing on a device

    return "CPU" if cuda is None else "GPU", workers


def _cost(job: Job, results: list[Result], scale: float, device_hours: float) -> float | None:
    """Price of the run at an endpoint, from the tokens of the sample, or of its devices; ``None`` without prices."""
    if job.config.endpoint is None:
        return price_of(device_hours, job.config.dry_run_price)
    counts = [result.usage for result in results if result.usage is not None]
    found = job.config.endpoint.cost(
        sum(each.prompt_tokens for each in counts), sum(each.completion_tokens for each in counts)
    )
    return None if found is None else scale * found


def _seconds_of_audio(job: Job, rows: list[RowRef], sample: list[RowRef]) -> float:
    """From the column ``duration`` where there is one, else from the clips of the sample."""
    tables = {table.split: table for table in job.tables}
    if all("duration" in table.data.column_names for table in tables.values()):
        columns = {split: table.data["duration"][:] for split, table in tables.items()}
        return sum(float(columns[split][row] or 0.0) for split, row in rows)
    total = 0.0
    for split, row in sample:
        audio = tables[split].audio(row)
        with suppress(AudioError):
            total += 0.0 if audio is None else load_waveform(audio).duration
    return total * len(rows) / len(sample)
