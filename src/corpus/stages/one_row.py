"""One row through every stage, shown and not stored: what the models read and write (``--debug-ind``)."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the stages behind them are not needed for --help
    from src.corpus.stages.placement import Placement
    from src.corpus.stages.prompt_settings import PromptSettings
    from src.corpus.stages.response_settings import ResponseSettings
    from src.corpus.stages.text_engine import Task, TextEngine

Show = Callable[[str], None]
Start = Callable[[str], "TextEngine"]


def add_one_row(parser: argparse.ArgumentParser) -> None:
    """Options that show one row instead of a run."""
    parser.add_argument(
        "--debug-ind", type=int, default=-1, metavar="ROW", help="show this row's requests and outputs, store nothing"
    )
    parser.add_argument(
        "--debug-dataset", default="cameo", metavar="NAME", help="corpus of --debug-ind (default: %(default)s)"
    )


def show_response(
    dataset: str,
    row: int,
    settings: ResponseSettings,
    placement: Placement,
    show: Show,
    start_engine: Start | None = None,
) -> None:
    """Self-generation, rephrasing and check of the row at position ``row`` of a corpus's prompts, its first attempt.

    Its seed is that of a run over the whole corpus. Raises :class:`UserError` if there are no prompts or no such row.
    """
    from src.corpus.stages.placement import start_text_engine
    from src.corpus.stages.response_job import ResponseJob
    from src.corpus.stages.responses import response_spec, sampling_options
    from src.corpus.stages.text_engine import EnginePool
    from src.dataset.tables import native_splits
    from src.prompts.texts import load_prompts

    from src.common.paths import prompts_dir  # isort: skip

    prompts = load_prompts(settings.prompts)
    split = native_splits(prompts_dir(dataset), f"prompts of {dataset}")[0]
    pool = EnginePool(start_engine or functools.partial(start_text_engine, settings, placement))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = ResponseJob(response_spec(dataset, split, settings, prompts, folder, folder, only=row))
        try:
            for stage in job.spec.folders:
                llm = settings.checker_llm if stage == "check" and settings.checker_llm else settings.llm
                options = sampling_options(settings, prompts, stage)
                tasks, finish = job.tasks(stage, 0), job.finisher(stage, 0)
                _run_and_show(job.name_of(stage), llm, pool, tasks, options, finish, show)
                record = job.journal(stage, 0).read(0) if job.journal(stage, 0).known(0) else {}
                _show_record(record, show)
        finally:
            pool.close()
            job.close()


def show_prompts(
    dataset: str,
    row: int,
    settings: PromptSettings,
    placement: Placement,
    show: Show,
    start_engine: Start | None = None,
) -> None:
    """Written prompts, verdicts and the chosen prompt of the row at position ``row`` of a corpus, its first attempt.

    Raises :class:`UserError` if the corpus is not collected or has no such row.
    """
    from src.corpus.stages.placement import start_text_engine
    from src.corpus.stages.prompt_job import STAGES, PromptJob
    from src.corpus.stages.prompts import prompt_options, prompt_spec
    from src.corpus.stages.text_engine import EnginePool
    from src.dataset.tables import native_splits
    from src.prompts.texts import load_prompts

    from src.common.paths import raw_dir  # isort: skip

    prompts = load_prompts(settings.prompts)
    splits = native_splits(raw_dir(dataset), f"raw set {dataset}")
    pool = EnginePool(start_engine or functools.partial(start_text_engine, settings, placement))
    options = prompt_options(settings, prompts)
    with tempfile.TemporaryDirectory() as scratch:
        job = PromptJob(prompt_spec(dataset, splits, splits[0], settings, prompts, Path(scratch), only=row))
        try:
            for stage in STAGES:
                llm = settings.checker if stage == "check" else settings.llm
                _run_and_show(stage, llm, pool, job.tasks(stage, 0), options, job.finisher(stage, 0), show)
                if job.journal(stage, 0).known(0):
                    _show_record(job.journal(stage, 0).read(0), show)
            job.settle(0)
            (outcome,) = job.rows()
            show(f"=== chosen prompt ({outcome.status}) ===\n{outcome.prompt}")
        finally:
            pool.close()
            job.close()


def _run_and_show(
    name: str,
    llm: str,
    pool: Any,
    tasks: Iterator[Task],
    options: dict[str, Any],
    finish: Callable[..., None],
    show: Show,
) -> None:
    """Run a stage; show what the model is asked, and its whole output."""
    from src.corpus.stages.text_engine import make_sampling, run_tasks

    def shown() -> Iterator[Task]:
        for task in tasks:
            for message in task.messages:
                show(f"=== {name} by {llm}: {message['role']} ===\n{message['content']}")
            yield task

    def finish_and_show(task: Task, result: Any, tokenizer: Any) -> None:
        ended = result.error or result.finish_reason
        show(f"=== {name}: output ({ended}, {result.num_tokens} tokens) ===\n{result.text}")
        finish(task, result, tokenizer)

    sampling = {key: value for key, value in options.items() if key != "budget_closing" and value is not None}
    show(f"=== {name}: sampling ===\n{sampling}")
    run_tasks(
        name, functools.partial(pool.get, llm), shown(), functools.partial(make_sampling, options), finish_and_show
    )


def _show_record(record: dict[str, Any], show: Show) -> None:
    """The stage's result for the output."""
    left_out = ("dataset_index", "input", "raw")
    show(f"=== result ===\n{ {name: value for name, value in record.items() if name not in left_out} }")
