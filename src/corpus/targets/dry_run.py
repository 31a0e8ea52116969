"""Dry run of the stages of language models: answers a sample of the rows, and estimates what all of them cost."""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.common.estimate import Estimate, price_of, report
from src.common.log import get_logger
from src.common.paths import raw_dir
from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine, sequences_at_once, start_text_engine
from src.corpus.targets.llm_settings import AnswerSettings
from src.corpus.targets.stage_job import StageJob
from src.dataset.response_rows import durations
from src.dataset.tables import find_rows, open_split, read_keys
from src.prompts.chat import ChatTokenizer, text_ids

if TYPE_CHECKING:
    from src.inference.types import Request, Result, Sampling

_log = get_logger(__name__)
_WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class DryRun:
    """Options of a dry run: the least number of rows to answer, the price of a device for an hour, a JSON file."""

    rows: int = 16
    price: float | None = None
    json: Path | None = None


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Options that estimate a run instead of making it."""
    group = parser.add_argument_group("estimate")
    group.add_argument("--dry-run", action="store_true", help="answer a few rows, estimate all, store nothing")
    group.add_argument("--dry-run-rows", type=int, default=16, metavar="N", help="least number of these rows (16)")
    group.add_argument("--dry-run-price", type=float, metavar="X", help="price of a GPU (or CPU process) for an hour")
    group.add_argument("--dry-run-json", type=Path, metavar="FILE", help="file to write the estimate to")


def read_dry_run(arguments: argparse.Namespace) -> DryRun | None:
    """The options of a dry run; None where a run is wanted."""
    if not arguments.dry_run:
        return None
    return DryRun(max(1, arguments.dry_run_rows), arguments.dry_run_price, arguments.dry_run_json)


def report_dry_run(
    open_jobs: Callable[[Path], Sequence[StageJob]],
    settings: AnswerSettings,
    placement: Placement | None,
    options: DryRun,
    show: Callable[[str], object],
    start_engine: Callable[[str], TextEngine] | None = None,
) -> Estimate:
    """Show the estimate of jobs, which ``open_jobs`` makes with their logs below a folder; nothing is kept.

    All rows are counted, also those that an interrupted run has answered already.
    """
    placement = placement or Placement()
    start = start_engine or functools.partial(start_text_engine, settings, placement)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        jobs = open_jobs(Path(scratch))
        for job in jobs:
            stack.callback(job.close)
        engines: list[_MeasuredEngine] = []

        def measured(llm: str) -> TextEngine:
            engines.append(_MeasuredEngine(start(llm)))
            return engines[-1]

        with closing(EnginePool(measured)) as pool:
            found = _estimate(jobs, pool, engines, settings, placement, options)
    report([("", found)], options.json, show)
    return found


@dataclass
class _MeasuredEngine:
    """Keeps time and tokens of every result; the first call warms the engine up."""

    engine: TextEngine
    results: list[tuple[float, int, bool]] = field(default_factory=list)
    warm: bool = False

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The language model's tokenizer."""
        return self.engine.tokenizer

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results of the engine."""
        from src.inference.types import Request as OneRequest
        from src.inference.types import Sampling as Options

        if not self.warm:
            self.warm = True
            first = OneRequest(key="warm-up", segments=(text_ids(self.tokenizer, "hello"),), seed=0)
            list(self.engine.run([first], Options(max_tokens=_WARM_UP_TOKENS, max_thinking_tokens=-1)))
        for result in self.engine.run(requests, sampling):
            self.results.append((result.seconds, result.num_tokens, result.error is not None))
            yield result

    def close(self) -> None:
        """Free the engine's memory."""
        self.engine.close()


def _estimate(
    jobs: Sequence[StageJob],
    pool: EnginePool,
    engines: list[_MeasuredEngine],
    settings: AnswerSettings,
    placement: Placement,
    options: DryRun,
) -> Estimate:
    total = sum(job.num_rows for job in jobs)
    places = min(sequences_at_once(settings, placement), max(1, total))
    # As many as the engine decodes at once, or a multiple: how full it is decides how long a row takes.
    wanted = min(total, places * math.ceil(options.rows / places))
    hours = _hours(jobs)
    sampled = sum(job.sample(math.ceil(wanted * job.num_rows / max(1, total)), settings.seed) for job in jobs)
    began, notes, seconds, tokens = time.monotonic(), [], 0.0, 0
    for number, stage in enumerate(jobs[0].stages if total else ()):
        before = sum(len(engine.results) for engine in engines)
        for job in jobs:
            job.run_stage(pool, number, 0)
        results = [each for engine in engines for each in engine.results][before:]
        share = len(results) / max(1, sampled) * total
        mean = sum(each[0] for each in results) / max(1, len(results))
        written = sum(each[1] for each in results) / max(1, len(results))
        took = max(share * mean / min(places, max(1, len(results))), mean)
        seconds += took
        tokens += round(share * written)
        notes.append((f"{stage.name} by {stage.llm}", f"{share:.0f} requests, {written:.0f} tokens each"))
    bad = sum(job.update_passed(0) for job in jobs)
    again = bad / max(1, sampled)
    factor = sum(again**attempt for attempt in range(settings.attempts))
    workers = placement.workers or len(placement.devices) or 1
    from torch.version import cuda

    whole = factor * seconds / workers
    notes.append(("attempts", f"up to {settings.attempts}; {again:.0%} of the rows need another, counted"))
    notes.append(("not included", f"start of the engines; this sample took {time.monotonic() - began:.0f} s with it"))
    return Estimate(
        rows=total,
        sampled=sampled,
        bad=bad,
        hours=hours,
        tokens=round(factor * tokens),
        seconds=whole,
        workers=workers,
        device="CPU" if cuda is None else "GPU",
        devices=workers,
        bad_kind="rows that did not pass",
        notes=tuple(notes),
        cost=price_of(workers * whole / 3600, options.price),
    )


def _hours(jobs: Sequence[StageJob]) -> float | None:
    """Hours of the clips that the rows are about; None where their lengths are not known."""
    total = 0.0
    for name, split, keys in {(job.dataset, job.split): (job.dataset, job.split, job.keys) for job in jobs}.values():
        if not raw_dir(name).is_dir():
            return None
        raw = open_split(raw_dir(name), split, f"raw set {name}")
        rows = find_rows(read_keys(raw, name), keys)
        stated = durations(raw, rows[rows >= 0])
        if stated is None:
            return None
        total += float(np.nansum(stated))
    return total / 3600
