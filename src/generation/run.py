"""A run over a data set: rows -> requests -> engine -> shards -> the published folder. Killed runs continue."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from src.common.errors import ConfigError
from src.common.log import get_logger
from src.common.run_record import write_run_record
from src.generation.config import read_run_config, with_defaults
from src.generation.dispatch import OpenWorkers, choose_workers, dispatch
from src.generation.job import Job, prepare
from src.generation.respond import in_batches
from src.generation.shards import Shards
from src.generation.tables import RowRef
from src.generation.tasks import FREE, Task, shuffled_choice
from src.generation.work import Record, Start, answer_rows, serve, start_models

log = get_logger(__name__)
BAD_ROWS = 3
"""Exit code of a strict run in which rows have no answer."""


def generate_free(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm.py``: free questions. Returns the exit code."""
    return generate(config, FREE)


def generate_choices(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm_mcqa.py``: multiple choice. Returns the exit code."""
    return generate(config, shuffled_choice(config.get("options_seed")))


def generate(
    raw: Mapping[str, Any], task: Task, start: Start | None = None, open_workers: OpenWorkers | None = None
) -> int:
    """Run the resolved configuration ``raw``; rows that fail are saved with their reason and counted.

    ``start`` loads engine and front ends when there are rows to do (default :func:`start_models`), ``open_workers``
    the workers of a run with several. Returns 0, or 3 if rows have no answer and the run is strict.
    """
    from datasets import disable_progress_bars

    disable_progress_bars()  # ours is the one of the run
    raw = with_defaults(raw)
    config = read_run_config(raw)
    if task.free_text and (config.options_seed is not None or config.answer_fallback != "none"):
        raise ConfigError("config: options_seed and answer_fallback are for multiple choice: generate_vllm_mcqa.py")
    trial = config.dry_run or config.dataset.debug_ind >= 0
    engine = config.engine
    open_workers = open_workers or choose_workers(engine.cluster, engine.workers, config.devices, engine.ray_address)
    if config.devices and (trial or open_workers is None):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(config.devices)
    job = prepare(config, task)
    if trial:
        from src.generation.trial import run_trial

        job.check_template()
        run_trial(job, start or start_models)
        return 0
    if config.push_to_hub:
        from src.generation.hub import repo_name

        log.info("the answers will be sent to %s", repo_name(config))  # found out before hours of work
    if job.next_step() == "skip":
        if config.push_to_hub:
            _push(job)
        return 0
    settings = job.settings()
    log.info("prompts: %s (%s)", job.prompts.name, job.prompts.source)
    with Shards(job.directory, settings, config.overwrite) as shards:
        records = shards.read()
        pending = job.pending(records)
        log.info("%s: %d rows to do, %d done before", job.directory, len(pending), job.rows - len(pending))
        started = time.monotonic()
        source = _records(job, raw, pending, start, open_workers)
        for record in with_progress(source, len(pending)):
            shards.append(record)
            records[record["key"]] = record
        seconds = time.monotonic() - started
        counts = job.finish(records)
        write_run_record(
            job.directory,
            raw,
            task=task.name,
            settings=settings,
            prompts=job.prompts.record(),
            splits=counts,
            rows_this_run=len(pending),
            seconds_this_run=round(seconds, 1),
        )
    bad = _report_bad_rows(job, records)
    if config.push_to_hub:
        _push(job)
    return BAD_ROWS if bad and config.strict else 0


def _push(job: Job) -> None:
    from src.generation.hub import push

    push(job.directory, job.config)


def _records(
    job: Job,
    raw: Mapping[str, Any],
    pending: list[RowRef],
    start: Start | None,
    open_workers: OpenWorkers | None,
) -> Iterator[Record]:
    """Records of the pending rows as they finish; without any nothing is loaded."""
    if not pending:
        return iter(())
    job.check_template()
    if open_workers is not None:
        workers = open_workers(partial(serve, raw, job.task.name, start))
        return _then_close(dispatch(workers, pending), workers)
    models = (start or start_models)(job)
    return _then_close(answer_rows(job, models, in_batches(pending, job.config.batch_size)), models.engine)


def _then_close(records: Iterator[Record], resource: Any) -> Iterator[Record]:
    with closing(resource):
        yield from records


def with_progress(records: Iterator[Record], total: int) -> Iterator[Record]:
    """The records, with a progress bar: rows/s, tokens/s, time left."""
    from tqdm import tqdm

    started, tokens = time.monotonic(), 0
    interval = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=total, unit="row", mininterval=interval, dynamic_ncols=True, disable=not total) as bar:
        for record in records:
            tokens += record["num_tokens"]
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update()
            yield record


def _report_bad_rows(job: Job, records: Mapping[str, Record]) -> int:
    """Log how many rows have no answer, and why; returns their number."""
    rows = [records[table.key(row)] for table, _ in job.tables for row in table.positions]
    bad = [record for record in rows if record["error"] is not None]
    log.info("%d rows in %s", len(rows), job.directory)
    if bad:
        kinds = ", ".join(f"{name} {count}" for name, count in Counter(each["status"] for each in bad).most_common())
        log.warning(
            "%d of %d rows have no answer: %s (columns status, error); the first is %s: %s",
            len(bad),
            len(rows),
            kinds,
            bad[0]["key"],
            bad[0]["error"],
        )
    return len(bad)
