"""Runs a data set through a model: rows, requests, engine, row log, saved data set. Killed runs are continued."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from src.common.errors import ConfigError
from src.common.log import get_logger
from src.common.run_record import write_run_record
from src.dataset.row_log import ResultLog
from src.generation.config import read_run_config, with_defaults
from src.generation.input_dataset import RowRef, row_key
from src.generation.job import Job, prepare
from src.generation.output_dataset import write_answers
from src.generation.task_types import FREE, ChoiceTask, Task
from src.generation.worker import Record, Start, answer_queue, answer_rows, start_models
from src.inference.config import EndpointConfig, choose_workers
from src.inference.prompt_builder import in_batches
from src.inference.workers import Dispatcher, OpenWorkers

log = get_logger(__name__)
BAD_ROWS = 3
"""Exit code of a strict run in which rows have no answer."""


def generate_free(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm.py``: free questions. Returns the exit code."""
    return generate(config, FREE)


def generate_choices(config: Mapping[str, Any]) -> int:
    """Entry of ``generate_vllm_mcqa.py``: multiple choice. Returns the exit code."""
    return generate(config, ChoiceTask(config.get("options_seed"), config.get("answers", "written")))


def generate(
    raw: Mapping[str, Any], task: Task, start: Start | None = None, open_workers: OpenWorkers | None = None
) -> int:
    """Run the resolved configuration ``raw``; rows that fail are saved with their reason and counted.

    ``start`` loads engine and audio embedders when there are rows to do (default :func:`start_models`),
    ``open_workers`` the workers of a run with several. Returns 0, or 3 if rows have no answer and the run is strict.
    """
    from datasets import disable_progress_bars

    disable_progress_bars()  # ours is the one of the run
    raw = with_defaults(raw)
    config = read_run_config(raw)
    of_choices = (config.options_seed, config.answer_fallback, config.answers)
    if task.free_text and of_choices != (None, "none", "written"):
        raise ConfigError(
            "config: options_seed, answer_fallback and answers are for multiple choice: generate_vllm_mcqa.py"
        )
    only_look = config.dry_run or config.dataset.debug_ind >= 0
    open_workers = open_workers or choose_workers(config.engine, config.devices)
    # before anything initialises CUDA, which reads the variable once; workers get one of the devices each
    if config.devices and (only_look or open_workers is None):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(config.devices)
    job = prepare(config, task)
    if only_look:
        from src.generation.dry_run import log_dry_run

        job.check_template()
        log_dry_run(job, start or start_models)
        return 0
    if config.push_to_hub:
        from src.generation.hub import push, repo_name

        log.info("the answers will be sent to %s", repo_name(config))  # fails now and not after hours of work
    if job.next_step() == "skip":
        if config.push_to_hub:
            push(job.directory, config)
        return 0
    settings = job.settings()
    log.info("prompts: %s (%s)", job.prompts.name, job.prompts.source)
    with ResultLog(job.directory, settings, config.overwrite) as results:
        records = results.read()
        pending = job.pending(records)
        log.info("%s: %d rows to do, %d done before", job.directory, len(pending), job.rows - len(pending))
        started = time.monotonic()
        for record in _with_progress(_answer(job, raw, pending, start, open_workers), len(pending)):
            results.append(record)
            records[record["key"]] = record
        seconds = time.monotonic() - started
        counts = write_answers(job, records)
        write_run_record(
            job.directory,
            raw,
            task=task.name,
            settings=settings,
            prompts=job.prompts.record(),
            splits=counts,
            rows_this_run=len(pending),
            seconds_this_run=round(seconds, 1),
            **({} if config.endpoint is None else {"usage": total_usage(records.values(), config.endpoint)}),
        )
    failed = _log_failed_rows(job, records)
    if config.push_to_hub:
        push(job.directory, config)
    return BAD_ROWS if failed and config.strict else 0


def _answer(
    job: Job,
    raw: Mapping[str, Any],
    pending: list[RowRef],
    start: Start | None,
    open_workers: OpenWorkers | None,
) -> Iterator[Record]:
    """Records of the pending rows as they finish, by workers or by models of this process."""
    if not pending:  # nothing is loaded
        return
    job.check_template()
    if open_workers is not None:
        with closing(open_workers(partial(answer_queue, raw, job.task, start))) as workers:
            yield from Dispatcher(workers, row_key, lambda record: record["key"]).run(pending)
        return
    models = (start or start_models)(job)
    with closing(models.engine):
        yield from answer_rows(job, models, in_batches(pending, job.config.batch_size))


def total_usage(records: Iterable[Record], endpoint: EndpointConfig) -> dict[str, Any]:
    """Tokens that the endpoint counted over all rows, and their ``cost`` where prices are given.

    ``rows_without_usage`` were answered without a count. Attempts that failed are not counted.
    """
    counted = [record.get("usage") for record in records if record["response"] is not None or "usage" in record]
    names = ("prompt_tokens", "completion_tokens")
    sums = {name: sum(each[name] for each in counted if each is not None) for name in names}
    return {**sums, "rows_without_usage": counted.count(None), "cost": endpoint.cost(**sums)}


def _with_progress(records: Iterator[Record], total: int) -> Iterator[Record]:
    """The records, with a progress bar: rows/s, tokens/s, time left."""
    from tqdm import tqdm

    started, tokens = time.monotonic(), 0
    interval = 0.5 if sys.stderr.isatty() else 15  # seconds; in a log file every refresh is a line
    with tqdm(total=total, unit="row", mininterval=interval, dynamic_ncols=True, disable=not total) as bar:
        for record in records:
            tokens += record["num_tokens"]
            bar.set_postfix_str(f"{tokens / (time.monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update()
            yield record


def _log_failed_rows(job: Job, records: Mapping[str, Record]) -> int:
    """Log how many rows have no answer, and why; returns their number."""
    rows = [records[row_key(row)] for table in job.tables for row in table.rows]
    failed = [record for record in rows if record["error"] is not None]
    log.info("%d rows in %s", len(rows), job.directory)
    if failed:
        statuses = Counter(each["status"] for each in failed).most_common()
        log.warning(
            "%d of %d rows have no answer: %s (columns status, error); the first is %s: %s",
            *(len(failed), len(rows), ", ".join(f"{name} {count}" for name, count in statuses)),
            *(failed[0]["key"], failed[0]["error"]),
        )
    return len(failed)
