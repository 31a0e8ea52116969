"""Shows the requests and outputs of one row in every stage, and stores nothing (``--debug-ind``)."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the stages behind them are not needed for --help
    from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine
    from src.corpus.targets.llm_settings import AnswerSettings, PromptSettings, ResponseSettings
    from src.corpus.targets.stage_job import StageJob, StageRequest
    from src.prompts.reasoning import Reasoning

Show = Callable[[str], None]


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
    start_engine: Callable[[str], TextEngine] | None = None,
    reasoning: Reasoning | None = None,
) -> None:
    """Self-generation, rephrasing and check of the row at position ``row`` of a corpus's prompts, its first attempt.

    ``reasoning`` as in :func:`~src.corpus.targets.responses.generate_responses`.
    Its seed is that of a run over the whole corpus. Raises :class:`UserError` if there are no prompts or no such row.
    """
    from src.common.paths import prompts_dir
    from src.corpus.targets.response_stages import response_job
    from src.corpus.targets.responses import adapt_to_llm
    from src.dataset.tables import native_splits
    from src.prompts.texts import load_prompts

    prompts = load_prompts(settings.prompts)
    split = native_splits(prompts_dir(dataset), f"prompts of {dataset}")[0]
    if reasoning is None:
        settings, reasoning = adapt_to_llm(settings)
    with _engines(settings, placement, start_engine) as pool, tempfile.TemporaryDirectory() as scratch:
        job, _ = response_job(dataset, split, settings, prompts, Path(scratch), Path(scratch), row, reasoning)
        with closing(job):
            _run_and_show(job, pool, show)


def show_prompts(
    dataset: str,
    row: int,
    settings: PromptSettings,
    placement: Placement,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
) -> None:
    """Written prompts, verdicts and the chosen prompt of the row at position ``row`` of a corpus, its first attempt.

    Raises :class:`UserError` if the corpus is not collected or has no such row.
    """
    from src.common.paths import raw_dir
    from src.corpus.targets.prompt_stages import PromptChoice, draw_examples
    from src.dataset.tables import native_splits
    from src.prompts.texts import load_prompts

    splits = native_splits(raw_dir(dataset), f"raw set {dataset}")
    examples = draw_examples(dataset, splits, settings.examples, settings.seed)
    prompts = load_prompts(settings.prompts)
    with _engines(settings, placement, start_engine) as pool, tempfile.TemporaryDirectory() as scratch:
        choice = PromptChoice(dataset, splits[0], settings, prompts, Path(scratch), examples, only=row)
        with closing(choice.job):
            _run_and_show(choice.job, pool, show)
            choice.job.update_passed(0)
            (outcome,) = choice.rows()
    show(f"=== chosen prompt ({outcome.status}) ===\n{outcome.prompt}")


def _engines(
    settings: AnswerSettings, placement: Placement, start_engine: Callable[[str], TextEngine] | None
) -> AbstractContextManager[EnginePool]:
    from src.corpus.targets.engine_pool import EnginePool, start_text_engine

    return closing(EnginePool(start_engine or functools.partial(start_text_engine, settings, placement)))


def _run_and_show(job: StageJob, pool: EnginePool, show: Show) -> None:
    """Run every stage once; show the messages, the output, and the result that would be logged."""
    from src.corpus.targets.stage_job import run_requests

    for number, stage in enumerate(job.stages):

        def shown(number: int = number, stage: Any = stage) -> Iterator[StageRequest]:
            for request in job.requests(number, 0):
                for message in request.messages:
                    show(f"=== {stage.name} by {stage.llm}: {message['role']} ===\n{message['content']}")
                yield request

        def keep(request: Any, result: Any, tokenizer: Any, number: int = number, stage: Any = stage) -> None:
            ended = result.error or result.finish_reason
            show(f"=== {stage.name}: output ({ended}, {result.num_tokens} tokens) ===\n{result.text}")
            job.keep(number, 0, request, result, tokenizer)

        options = stage.options.items()
        sampling = {key: value for key, value in options if key != "budget_closing" and value is not None}
        show(f"=== {stage.name}: sampling ===\n{sampling}")
        run_requests(pool, stage, shown(), keep, stage.name)
        log = job.log(number, 0)
        if log.known(0):
            left_out = ("dataset_index", "input", "raw")
            show(f"=== result ===\n{ {name: value for name, value in log.read(0).items() if name not in left_out} }")
