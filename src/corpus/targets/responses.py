"""Training targets of the audio corpora: the frozen LLM answers from the description, then rewrites its answer.

Self-generation, self-rephrasing and an optional check by another LLM, over one engine, resumable at every row.
Published reference: ``scripts/alarm/generate_responses.py`` of Blinorot/ALARM.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.estimate import Estimate
from src.common.existing import next_step, set_problem
from src.common.lock import empty_folder, locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import prompts_dir, responses_dir
from src.common.run_record import write_run_record
from src.corpus.targets.answer_filter import filter_by_answer, require_rows
from src.corpus.targets.dry_run import DryRun, Show, report_dry_run, show_stages
from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine, engine_starter
from src.corpus.targets.llm_settings import ResponseSettings
from src.corpus.targets.response_stages import (
    ResponseStatistics,
    TargetRow,
    final_rows,
    first_rows,
    made_elsewhere,
    response_job,
    stored_result,
    wanted_keys,
)
from src.corpus.targets.stage_job import StageJob, run_jobs
from src.dataset.corpus_names import audio_corpora, groups, resolve_names
from src.dataset.tables import native_splits
from src.dataset.writer import write_rows
from src.prompts.reasoning import THINKING, Reasoning
from src.prompts.texts import Prompts, load_prompts

_log = get_logger(__name__)
PUBLISHED_COLUMNS = {
    "dataset_index": int,
    "audio_description": str,
    "prompt": str,
    "llm_answer_with_context": str,
    "llm_answer_no_context": str,
}
"""``llm_answer_no_context`` is empty for audio corpora."""
COLUMNS = PUBLISHED_COLUMNS | {"status": str, "num_tokens": int, "finish_reason": str, "attempts": int}
"""The further ones say how a response came about; ``finish_reason`` is that of the generation: ``length`` if cut."""


def generate_responses(
    datasets: Sequence[str],
    settings: ResponseSettings,
    start_engine: Callable[[str], TextEngine] | None = None,
    overwrite: bool = False,
    placement: Placement | None = None,
    reasoning: Reasoning | None = None,
) -> dict[str, dict[str, Any]]:
    """Make the response sets of ``datasets``, their statistics and filtered indexes.

    A group, or ``all``, stands for its corpora that have prompts, and no name for all of them. A run that was killed
    continues where it stopped, and a finished one starts no engine. A corpus whose responses were not made here is
    skipped. ``overwrite`` discards what is there. ``start_engine`` replaces the engines in tests. ``reasoning`` is
    that of the language model; None finds it by its chat template (:func:`adapt_to_llm`).

    Returns by response folder: statistics (see ``ResponseStatistics.result``) and ``filter``, the counts by split.
    Raises :class:`UserError` for missing prompts, results that other settings made, or responses of another program
    that are not complete; at the end, if the answer filter leaves no row of a set.
    """
    datasets, settings, reasoning = _choose(datasets, settings, overwrite, reasoning)
    # a checker needs an engine of its own: run it over all corpora at once, else finish them one by one
    together = [list(datasets)] if settings.checker_llm else [[dataset] for dataset in datasets]
    summary: dict[str, dict[str, Any]] = {}
    with closing(EnginePool(engine_starter(settings, placement, start_engine))) as pool:
        for group in together:
            folders = [folder for dataset in group for folder in _folders(dataset, settings) if folder is not None]
            with locked_folders(folders) as changed:
                if folders and may_discard(overwrite, changed, folders[0].parent):
                    for folder in dict.fromkeys(folders):
                        empty_folder(folder)
                summary.update(_run(group, settings, pool, reasoning))
    for dataset in datasets:  # at the end: the other sets are made all the same
        final = settings.set_names(dataset)[1]
        require_rows(final, summary[final]["filter"], settings.length_limits(reasoning))
    return summary


def estimate_responses(
    datasets: Sequence[str],
    settings: ResponseSettings,
    options: DryRun,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
    placement: Placement | None = None,
    reasoning: Reasoning | None = None,
) -> Estimate:
    """Show what :func:`generate_responses` with these arguments would cost; nothing is kept of its sample."""
    datasets, settings, known = _choose(datasets, settings, False, reasoning)
    prompts = load_prompts(settings.prompts)

    def jobs(folder: Path) -> list[StageJob]:
        return [
            response_job(dataset, split, settings, prompts, folder / dataset, folder / dataset, reasoning=known)
            for dataset in datasets
            for split in native_splits(prompts_dir(dataset), f"prompts of {dataset}")
        ]

    return report_dry_run(jobs, settings, placement, options, show, start_engine)


def show_response(
    dataset: str,
    row: int,
    settings: ResponseSettings,
    placement: Placement,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
    reasoning: Reasoning | None = None,
) -> None:
    """Show the first attempt at the row at position ``row`` of a corpus's prompts; nothing is stored.

    Its seed is that of a run over the whole corpus. Raises :class:`UserError` if there are no prompts or no such row.
    """
    split = native_splits(prompts_dir(dataset), f"prompts of {dataset}")[0]
    if reasoning is None:
        settings, reasoning = adapt_to_llm(settings)
    prompts = load_prompts(settings.prompts)
    with tempfile.TemporaryDirectory() as scratch:
        job = response_job(dataset, split, settings, prompts, Path(scratch), Path(scratch), row, reasoning)
        with closing(job):
            show_stages(job, engine_starter(settings, placement, start_engine), show)


def _choose(
    datasets: Sequence[str], settings: ResponseSettings, overwrite: bool, reasoning: Reasoning | None
) -> tuple[list[str], ResponseSettings, Reasoning]:
    """Corpora that are to be answered, and the settings and reasoning format of the language model that does it."""
    named = bool(datasets)
    with_prompts = [name for name in audio_corpora() if prompts_dir(name).is_dir()]
    # any other name is taken as it is: its prompts need no recipe
    datasets = resolve_names(datasets or ["all"], with_prompts, lambda name: name not in {*groups(), "all"}, None)
    if not datasets:
        raise UserError(f"no corpus {'of these groups ' if named else ''}has prompts in {prompts_dir('NAME').parent}")
    for dataset in datasets:  # a wrong name is reported now, not after hours of work for the others
        settings.set_names(dataset)
        native_splits(prompts_dir(dataset), f"prompts of {dataset}")
    datasets = [dataset for dataset in datasets if _is_wanted(dataset, settings, overwrite)]
    if reasoning is None and datasets:
        adapted, reasoning = adapt_to_llm(settings)
        if adapted != settings:  # the sets have other names
            settings = adapted
            datasets = [dataset for dataset in datasets if _is_wanted(dataset, settings, overwrite)]
    return list(datasets), settings, reasoning or THINKING


def adapt_to_llm(settings: ResponseSettings) -> tuple[ResponseSettings, Reasoning]:
    """The settings for their language model, and how it reasons: one that does not reason has nothing to rephrase.

    Raises :class:`UserError` if it has no usable chat template.
    """
    from src.inference.load import llm_reasoning  # torch, not needed where there is nothing to do

    reasoning = llm_reasoning(settings.llm, settings.reasoning)
    if reasoning.expected:
        return settings, reasoning
    _log.warning(
        "%s does not reason, by its chat template: self-generation without self-rephrasing, responses of %d tokens "
        "and more are kept; if it does reason, name the format (--reasoning think)",
        settings.llm,
        settings.length_limits(reasoning).tokens_min,
    )
    return replace(settings, rephrase=False), reasoning


def _folders(dataset: str, settings: ResponseSettings) -> tuple[Path | None, Path]:
    """Folders of the plain and the final set; None for a plain set that was not made here and stays as it is."""
    plain, final = (responses_dir(settings.llm_name, name) for name in settings.set_names(dataset))
    return (None if plain != final and made_elsewhere(plain) else plain), final


def _is_wanted(dataset: str, settings: ResponseSettings, overwrite: bool) -> bool:
    """Whether a corpus is to be answered. Raises :class:`UserError` for a set that the user must decide about."""
    _, folder = _folders(dataset, settings)
    if not made_elsewhere(folder):
        return True
    keys = wanted_keys(prompts_dir(dataset), f"prompts of {dataset}", settings.limit)
    problem = set_problem(folder, PUBLISHED_COLUMNS, keys)
    other = "choose another --llm or --max-tokens, which are part of the folder's name"
    what = f"responses {folder.name}"
    return next_step(what, folder, problem, ours=False, overwrite=overwrite, other_name=other) != "skip"


def _run(
    datasets: Sequence[str], settings: ResponseSettings, pool: EnginePool, reasoning: Reasoning
) -> dict[str, dict[str, Any]]:
    """Take some corpora through all attempts, then write their sets."""
    prompts = load_prompts(settings.prompts)
    with ExitStack() as stack:
        corpora: dict[str, list[StageJob]] = {}
        for dataset in datasets:
            plain, final = _folders(dataset, settings)
            if plain is None:  # the first responses then belong to the final set
                name = settings.set_names(dataset)[0]
                _log.info("%s: %s was not made here and stays as it is", dataset, final.with_name(name))
            corpora[dataset] = [
                response_job(dataset, split, settings, prompts, plain or final, final, reasoning=reasoning)
                for split in native_splits(prompts_dir(dataset), f"prompts of {dataset}")
            ]
            for job in corpora[dataset]:
                stack.callback(job.close)
        jobs = [job for corpus in corpora.values() for job in corpus]
        run_jobs(jobs, settings.attempts, pool, "rows without a sound response")
        written = [_write(dataset, settings, prompts, corpus, reasoning) for dataset, corpus in corpora.items()]
    return {name: result for sets in written for name, result in sets.items()}


def _write(
    dataset: str,
    settings: ResponseSettings,
    prompts: Prompts,
    jobs: Sequence[StageJob],
    reasoning: Reasoning,
) -> dict[str, dict[str, Any]]:
    """Write the sets of a corpus that are out of date; returns the result of each by its folder's name."""
    config = {
        "dataset": dataset,
        **settings.recorded(),
        "llm_mark": jobs[0].stages[0].fingerprint["llm"],
        "journal_bytes": sum(job.log_bytes for job in jobs),  # more of them: the set is out of date
    }
    digest = prompts.digest()
    plain, final = _folders(dataset, settings)
    # the plain set is published too, and what rephrasing changed is measured against it
    sets: dict[Path, Callable[[StageJob], Iterator[TargetRow]]] = {}
    if plain is not None:
        sets[plain] = first_rows
    if plain != final:  # the same without rephrasing and check
        sets[final] = final_rows
    summary = {}
    for folder, rows in sets.items():
        result = stored_result(folder, config, prompts_digest=digest, **reasoning.record())
        if result is None:
            statistics = ResponseStatistics(prompts, reasoning)
            entries = {job.split: _entries(rows(job), statistics) for job in jobs}
            write_rows(folder, entries, COLUMNS)
            result = statistics.result()
            write_run_record(
                folder, config, prompts_digest=digest, prompts=prompts.record(), result=result, **reasoning.record()
            )
        filtered = filter_by_answer(dataset, folder.name, settings.length_limits(reasoning))
        summary[folder.name] = {**result, "filter": filtered}
        _log.info("%s: %d rows, %d sound, betraying %s", folder, result["rows"], result["ok"], result["betraying"])
    return summary


def _entries(rows: Iterable[TargetRow], statistics: ResponseStatistics) -> Iterator[dict[str, Any]]:
    for row in rows:
        statistics.add(row)
        made = (
            row.dataset_index,
            *row.texts,
            row.text,
            "",
            row.status,
            row.num_tokens,
            row.finish_reason,
            row.attempts,
        )
        yield dict(zip(COLUMNS, made, strict=True))
