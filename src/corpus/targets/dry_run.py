"""Dry runs of the stages of language models: estimates the cost from a sample of the rows, or shows one row."""

from __future__ import annotations

import argparse
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
from src.common.paths import raw_dir
from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine, engine_starter, sequences_at_once
from src.corpus.targets.llm_settings import AnswerSettings
from src.corpus.targets.stage_job import StageJob
from src.dataset.response_rows import durations
from src.dataset.tables import KEY, find_rows, open_keyed
from src.prompts.chat import ChatTokenizer, text_ids

if TYPE_CHECKING:
    from src.inference.types import Request, Result, Sampling

_WARM_UP_TOKENS = 8
Show = Callable[[str], object]


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


def add_one_row(parser: argparse.ArgumentParser) -> None:
    """Options that show one row instead of a run."""
    parser.add_argument(
        "--debug-ind", type=int, default=-1, metavar="ROW", help="show this row's requests and outputs, store nothing"
    )
    parser.add_argument(
        "--debug-dataset", default="cameo", metavar="NAME", help="corpus of --debug-ind (default: %(default)s)"
    )


@dataclass
class _RecordingEngine:
    """An engine that keeps its results."""

    engine: TextEngine
    results: list[Result] = field(default_factory=list)

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The language model's tokenizer."""
        return self.engine.tokenizer

    def run(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Result]:
        """Results of the engine."""
        for result in self.engine.run(requests, sampling):
            self.results.append(result)
            yield result

    def close(self) -> None:
        """Free the engine's memory."""
        self.engine.close()


def report_dry_run(
    open_jobs: Callable[[Path], Sequence[StageJob]],
    settings: AnswerSettings,
    placement: Placement | None,
    options: DryRun,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
) -> Estimate:
    """Show the estimate of jobs, which ``open_jobs`` makes with their logs below a folder; nothing is kept.

    All rows are counted, also those that an interrupted run has answered already.
    """
    start = engine_starter(settings, placement, start_engine)
    results: list[Result] = []  # of all engines, in the order in which they finish

    def warm(llm: str) -> TextEngine:
        from src.inference.types import Request, Sampling

        # the first request compiles kernels and reserves memory, which would count as the time of a row
        engine = start(llm)
        first = Request(key="warm-up", segments=(text_ids(engine.tokenizer, "hello"),), seed=0)
        list(engine.run([first], Sampling(max_tokens=_WARM_UP_TOKENS, max_thinking_tokens=-1)))
        return _RecordingEngine(engine, results)

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        jobs = open_jobs(Path(scratch))
        for job in jobs:
            stack.callback(job.close)
        pool = stack.enter_context(closing(EnginePool(warm)))
        found = _estimate(jobs, pool, results, settings, placement or Placement(), options)
    report([("", found)], options.json, show)
    return found


def _estimate(
    jobs: Sequence[StageJob],
    pool: EnginePool,
    results: list[Result],
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
        results.clear()
        for job in jobs:
            job.run_stage(pool, number, 0)
        count = max(1, len(results))
        share = len(results) / max(1, sampled) * total
        mean = sum(result.seconds for result in results) / count
        written = sum(result.num_tokens for result in results) / count
        # a row takes its share of a place in the engine; no stage is shorter than one row
        seconds += max(share * mean / min(places, count), mean)
        tokens += round(share * written)
        notes.append((f"{stage.name} by {stage.llm}", f"{share:.0f} requests, {written:.0f} tokens each"))
    bad = sum(job.update_passed(0) for job in jobs)
    # every attempt repeats the stages for the rows that still fail, taken to be the same share each time
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
    # jobs of one split with and without its context are about the same clips
    for (name, split), keys in {(job.dataset, job.split): job.keys for job in jobs}.items():
        if not raw_dir(name).is_dir():
            return None
        raw, known = open_keyed(raw_dir(name), split, f"raw set {name}")
        rows = find_rows(known, keys)
        stated = durations(raw, rows[rows >= 0])
        if stated is None:
            return None
        total += float(np.nansum(stated))
    return total / 3600


def show_stages(job: StageJob, start: Callable[[str], TextEngine], show: Show) -> None:
    """Run every stage of a job of one row once; show its messages, its output, and the result that is logged."""
    results: list[Result] = []
    with closing(EnginePool(lambda llm: _RecordingEngine(start(llm), results))) as pool:
        for number, stage in enumerate(job.stages):
            options = stage.options.items()
            sampling = {key: value for key, value in options if key != "budget_closing" and value is not None}
            show(f"=== {stage.name}: sampling ===\n{sampling}")
            for request in job.requests(number, 0):
                for message in request.messages:
                    show(f"=== {stage.name} by {stage.llm}: {message['role']} ===\n{message['content']}")
            results.clear()
            job.run_stage(pool, number, 0)
            for result in results:
                ended = result.error or result.finish_reason
                show(f"=== {stage.name}: output ({ended}, {result.num_tokens} tokens) ===\n{result.text}")
            log = job.log(number, 0)
            if log.known(0):
                left_out = (KEY, "input", "raw")
                fields = {name: value for name, value in log.read(0).items() if name not in left_out}
                show(f"=== result ===\n{fields}")
