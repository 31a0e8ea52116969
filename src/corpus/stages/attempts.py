"""Stages over jobs, and attempts over stages: what every run of a language model over rows has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.common.log import get_logger
from src.corpus.stages.response_job import ResponseJob, StageName
from src.corpus.stages.text_engine import EnginePool, make_sampling, run_tasks

_log = get_logger(__name__)


def run_stage(
    pool: EnginePool, llm: str, options: Mapping[str, Any], job: ResponseJob, stage: StageName, attempt: int
) -> None:
    """Do what a stage has left for the rows of a job; ``options`` are those of ``Sampling``."""
    label = f"{job.spec.dataset}/{job.spec.split}, attempt {attempt + 1}: {job.name_of(stage)}"
    engine, sampling = functools.partial(pool.get, llm), functools.partial(make_sampling, options)
    run_tasks(label, engine, job.tasks(stage, attempt), sampling, job.finisher(stage, attempt))


def run_attempts(jobs: Sequence[ResponseJob], attempts: int, once: Callable[[int], None]) -> None:
    """Call ``once(attempt)`` until every row of ``jobs`` has passed, at most ``attempts`` times."""
    for attempt in range(attempts):
        once(attempt)
        left = sum(job.settle(attempt) for job in jobs)
        _log.info("attempt %d of %d: %d rows without a sound response", attempt + 1, attempts, left)
        if left == 0:
            return
