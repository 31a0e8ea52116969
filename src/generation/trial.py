"""A look before a run: what it will cost (``dry_run``), and what becomes of one row (``dataset.debug_ind``)."""

from __future__ import annotations

import math
import random
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from src.audio.waveform import AudioError, load_waveform
from src.common.errors import UserError
from src.common.log import get_logger
from src.generation.config import RunConfig
from src.generation.job import Job
from src.generation.requests import Result, prompt_length
from src.generation.respond import in_batches
from src.generation.tables import RowRef, Table
from src.generation.work import Start, answer_rows, make_requests

log = get_logger(__name__)
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run. ``hours`` of audio, where the data set does not state them, the ``tokens`` written and the
    ``seconds`` are extrapolated from ``sampled`` rows.
    """

    rows: int
    sampled: int
    bad: int
    hours: float
    tokens: int
    seconds: float
    workers: int

    def lines(self) -> list[str]:
        """For people."""
        minutes = self.seconds / 60
        spent = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        return [
            f"rows: {self.rows}",
            f"audio: {self.hours:.2f} h",
            f"tokens to be written: about {self.tokens}",
            f"time: about {spent} with {self.workers} worker(s), from {self.sampled} rows",
            f"rows without an answer in the sample: {self.bad} of {self.sampled}",
        ]


def run_trial(job: Job, start: Start) -> None:
    """Do what the configuration asks for, and log it. Nothing is saved."""
    if job.config.dataset.debug_ind >= 0:
        for line in show_row(job, start, job.config.dataset.debug_ind):
            log.info("%s", line)
        return
    for line in estimate(job, start).lines():
        log.info("%s", line)


def estimate(job: Job, start: Start) -> Estimate:
    """Answer a seeded sample of the rows and extrapolate. Loads the models.

    Time depends on how full the engine is, so it is measured with a full one: the sample goes through it in waves of
    as many rows as it decodes at once, at least one wave. A row then takes its share of a place in the engine, which
    neither the size of the sample nor its longest response changes, and the encoding of its clip.
    """
    rows = job.pending({})
    places = min(job.config.engine.max_num_seqs, len(rows))
    if not rows:
        return Estimate(0, 0, 0, 0.0, 0, 0.0, 1)
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
    workers = worker_count(job.config)
    decoding = sum(result.seconds for result in results) / places
    longest = max(result.seconds for result in results)
    scale = len(rows) / len(sample)
    return Estimate(
        rows=len(rows),
        sampled=len(sample),
        bad=sum(result.error is not None for result in results),
        hours=_seconds_of_audio(job, rows, sample) / 3600,
        tokens=round(scale * sum(result.num_tokens for result in results)),
        seconds=max(scale * (encoding + decoding) / workers, longest),
        workers=workers,
    )


def worker_count(config: RunConfig) -> int:
    """Front ends with an engine in a run; of a Ray cluster whose size is not given, one."""
    return config.engine.workers or len(config.devices) or 1


def _seconds_of_audio(job: Job, rows: list[RowRef], sample: list[RowRef]) -> float:
    """From the column ``duration`` where there is one, else from the clips of the sample."""
    if not job.config.hears:
        return 0.0
    tables = {table.split: table for table, _ in job.tables}
    if all("duration" in table.data.column_names for table in tables.values()):
        columns = {split: table.data["duration"][:] for split, table in tables.items()}
        return sum(float(columns[split][row] or 0.0) for split, row in rows)
    heard = [_duration(tables[split], row) for split, row in sample]
    return sum(heard) * len(rows) / len(sample)


def _duration(table: Table, row: int) -> float:
    audio = table.audio(row)
    try:
        return 0.0 if audio is None else load_waveform(audio).duration
    except AudioError:
        return 0.0


def show_row(job: Job, start: Start, position: int) -> list[str]:
    """Prompt and response of one row of the first split. Raises :class:`UserError` if there is no such row."""
    table, _ = job.tables[0]
    if position >= len(table.data):
        raise UserError(f"dataset.debug_ind={position}: {table.split} has rows 0 to {len(table.data) - 1}")
    models = start(job)
    row = (table.split, position)
    with closing(models.engine):
        (request,) = make_requests(job, models, [[row]])
        (record,) = answer_rows(job, models, [[row]])
    content: Any = next(job.items([row])).content
    return [
        f"row: {record['key']}, sampling: {job.sampling()}, seed {request.seed}",
        f"prompts: {job.prompts.name} ({job.prompts.source})",
        f"system:\n{job.task.system(job.prompts)}",
        f"user:\n{content}",
        f"prompt: {prompt_length(request.segments)} positions, in parts of {list(map(len, request.segments))}",
        f"response, {record['num_tokens']} tokens, {record['finish_reason']}:",
        record["response"] or record["error"],
    ]
