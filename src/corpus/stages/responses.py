"""Training targets of the audio corpora: the frozen LLM answers from the description, then rewrites its answer.

Self-generation, self-rephrasing and an optional check by another LLM, over one engine, resumable at every row.
Published reference: ``scripts/alarm/generate_responses.py`` of Blinorot/ALARM.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.existing import is_empty, next_step, set_problem
from src.common.lock import empty_folder, held, may_discard
from src.common.log import get_logger
from src.common.naming import model_short_name
from src.common.paths import prompts_dir, responses_dir
from src.corpus.recipes import expand
from src.corpus.stages.answer_filter import filter_by_answer
from src.corpus.stages.attempts import run_attempts, run_stage
from src.corpus.stages.placement import Placement, start_text_engine
from src.corpus.stages.response_job import JOURNAL, JobSpec, ResponseJob, StageName
from src.corpus.stages.response_set import (
    PUBLISHED_COLUMNS,
    RESPONSES,
    ResponseStatistics,
    stored_result,
    write_response_set,
)
from src.corpus.stages.response_settings import ResponseSettings, SetNames
from src.corpus.stages.text_engine import EnginePool, TextEngine, llm_mark, text_mark
from src.dataset.tables import native_splits, open_split, read_keys
from src.prompts.layouts import self_generation_messages
from src.prompts.texts import Prompts, load_prompts

_log = get_logger(__name__)


def generate_responses(
    datasets: Sequence[str],
    settings: ResponseSettings,
    start_engine: Callable[[str], TextEngine] | None = None,
    overwrite: bool = False,
    placement: Placement | None = None,
) -> dict[str, dict[str, Any]]:
    """Make the response sets of ``datasets``, their statistics and filtered indexes.

    A group, or ``all``, stands for its corpora that have prompts, and no name for all of them.
    Results are kept row by row: a run that was killed goes on where it stopped, and a finished one starts no engine.
    A corpus whose responses were not made here is skipped. ``overwrite`` discards what is there. ``placement`` is
    where the engines run; ``start_engine`` replaces them in tests.

    Returns by response folder: statistics (see ``ResponseStatistics.result``) and ``filter``, the counts by split.
    Raises :class:`UserError` for missing prompts, results that other settings made, or responses of another program
    that are not complete.
    """
    named = bool(datasets)
    datasets = expand(datasets or ["all"], lambda name: prompts_dir(name).is_dir())
    if not datasets:
        raise UserError(f"no corpus {'of these groups ' if named else ''}has prompts in {prompts_dir('NAME').parent}")
    for dataset in datasets:  # a name that is wrong is told now, not after hours of work for the others
        SetNames.of(dataset, settings)
        native_splits(prompts_dir(dataset), f"prompts of {dataset}")
    datasets = [dataset for dataset in datasets if _is_wanted(dataset, settings, overwrite)]
    pool = EnginePool(start_engine or functools.partial(start_text_engine, settings, placement or Placement()))
    # a checker needs an engine of its own: run it over all corpora at once, else finish them one by one
    groups = [list(datasets)] if settings.checker_llm else [[dataset] for dataset in datasets]
    summary: dict[str, dict[str, Any]] = {}
    try:
        for group in groups:
            folders = folders_of(group, settings)
            with held(folders) as changed:
                discard = may_discard(overwrite, changed, folders[0].parent)
                summary.update(_Run(group, settings, pool, discard).run())
    finally:
        pool.close()
    return summary


def folders_of(datasets: Sequence[str], settings: ResponseSettings) -> list[Path]:
    """Response folders that a run writes, each once; a plain set that was not made here is not among them."""
    written: dict[Path, None] = {}
    for dataset in datasets:
        names = SetNames.of(dataset, settings)
        plain, final = (responses_dir(model_short_name(settings.llm), name) for name in (names.plain, names.final))
        if plain == final or not _made_elsewhere(plain):
            written[plain] = None
        written[final] = None
    return list(written)


def _made_elsewhere(folder: Path) -> bool:
    """Whether a response folder has something in it and no results row by row to go on with."""
    return not is_empty(folder) and not (folder / JOURNAL).is_dir()


def _is_wanted(dataset: str, settings: ResponseSettings, overwrite: bool) -> bool:
    """Whether a corpus is to be answered. Raises :class:`UserError` for a set that the user must decide about."""
    names = SetNames.of(dataset, settings)
    folder = responses_dir(model_short_name(settings.llm), names.final)
    if not _made_elsewhere(folder):
        return True
    tables = {split: open_split(prompts_dir(dataset), split, f"prompts of {dataset}")
              for split in native_splits(prompts_dir(dataset))}  # fmt: skip
    keys = {split: read_keys(table, f"prompts of {dataset}")[: settings.limit] for split, table in tables.items()}
    problem = set_problem(folder, list(RESPONSES.columns)[:PUBLISHED_COLUMNS], keys)
    other = "choose another --llm or --max-tokens, which are part of the folder's name"
    what = f"responses {names.final}"
    return next_step(what, folder, problem, ours=False, overwrite=overwrite, other_name=other) != "skip"


class _Run:
    """Some corpora through all attempts, then their sets."""

    def __init__(
        self, datasets: Sequence[str], settings: ResponseSettings, pool: EnginePool, overwrite: bool
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.prompts = load_prompts(settings.prompts)
        self.model = model_short_name(settings.llm)
        self.names = {dataset: SetNames.of(dataset, settings) for dataset in datasets}
        if overwrite:
            for folder in folders_of(datasets, settings):
                empty_folder(folder)
        self.jobs = {dataset: self._open_jobs(dataset) for dataset in datasets}

    def _open_jobs(self, dataset: str) -> list[ResponseJob]:
        names = self.names[dataset]
        final = responses_dir(self.model, names.final)
        plain = responses_dir(self.model, names.plain)
        if self._keeps_plain(names):
            _log.info("%s: %s was not made here and stays as it is", dataset, plain)
        first = final if self._keeps_plain(names) else plain
        return [
            ResponseJob(response_spec(dataset, split, self.settings, self.prompts, first, final))
            for split in native_splits(prompts_dir(dataset), f"prompts of {dataset}")
        ]

    def _keeps_plain(self, names: SetNames) -> bool:
        """Whether there is a plain set of another program: the first responses then belong to the final set."""
        return names.plain != names.final and _made_elsewhere(responses_dir(self.model, names.plain))

    def run(self) -> dict[str, dict[str, Any]]:
        """All attempts, then the sets of every corpus."""
        jobs = [job for corpus in self.jobs.values() for job in corpus]
        try:
            run_attempts(jobs, self.settings.attempts, functools.partial(self._attempt, jobs))
            return {name: result for dataset in self.jobs for name, result in self._write(dataset).items()}
        finally:
            for job in jobs:
                job.close()

    def _attempt(self, jobs: Sequence[ResponseJob], attempt: int) -> None:
        """One pass over the rows without a response."""
        for job in jobs:
            self._stage(job, "generate", attempt)
            if self.settings.rephrase:
                self._stage(job, "rephrase", attempt)
        if self.settings.checker_llm is not None:  # last: it needs another engine
            for job in jobs:
                self._stage(job, "check", attempt)

    def _stage(self, job: ResponseJob, stage: StageName, attempt: int) -> None:
        llm = self.settings.checker_llm if stage == "check" and self.settings.checker_llm else self.settings.llm
        run_stage(self.pool, llm, sampling_options(self.settings, self.prompts, stage), job, stage, attempt)

    def _write(self, dataset: str) -> dict[str, dict[str, Any]]:
        names, jobs = self.names[dataset], self.jobs[dataset]
        config = {
            "dataset": dataset,
            **asdict(self.settings),
            "llm_mark": jobs[0].spec.marks["generate"]["llm"],
            "journal_bytes": sum(job.journal_bytes for job in jobs),  # more of them: the set is out of date
        }
        sets = {}
        if not self._keeps_plain(names):
            sets[names.plain] = {job.spec.split: job.plain_rows() for job in jobs}
        if names.final != names.plain:
            sets[names.final] = {job.spec.split: job.final_rows() for job in jobs}
        summary = {}
        for name, splits in sets.items():
            folder = responses_dir(self.model, name)
            mark = {"prompts_digest": self.prompts.digest()}
            result = stored_result(folder, config, **mark)
            if result is None:
                result = write_response_set(
                    folder,
                    splits,
                    RESPONSES,
                    ResponseStatistics(self.prompts),
                    config,
                    **mark,
                    prompts=self.prompts.record(),
                )
            summary[name] = {**result, "filter": filter_by_answer(dataset, name, self.settings.length_limits)}
            _log.info(
                "%s: %d rows, %d sound, betraying %s", folder, result["rows"], result["ok"], result["betraying"]
            )
        return summary


def response_spec(
    dataset: str,
    split: str,
    settings: ResponseSettings,
    prompts: Prompts,
    first_folder: Path,
    final_folder: Path,
    only: int | None = None,
) -> JobSpec:
    """The job of one split; the first responses are kept in ``first_folder``, all else in ``final_folder``."""
    stages: dict[StageName, bool] = {
        "generate": True,
        "rephrase": settings.rephrase,
        "check": settings.checker_llm is not None,
    }
    checker_system = _read_checker_prompt(settings, prompts)
    return JobSpec(
        dataset=dataset,
        split=split,
        table_folder=prompts_dir(dataset),
        texts=("audio_description", "prompt"),
        messages=lambda description, prompt: self_generation_messages(prompts, description, prompt),
        hint="make the prompts again with create_prompts_offline.py",
        folders={stage: final_folder for stage, used in stages.items() if used},
        first_folder=first_folder,
        marks=stage_marks(settings, prompts, checker_system),
        prompts=prompts,
        checker_system=checker_system,
        seed=settings.seed,
        limit=settings.limit,
        only=only,
    )


def sampling_options(settings: ResponseSettings, prompts: Prompts, stage: StageName) -> dict[str, Any]:
    """How a stage draws: self-generation is cut at its limit; the rewriter and the checker have a thinking budget."""
    options = settings.sampling()
    if stage != "generate":
        options |= {"max_tokens": settings.rephrase_max_tokens, "max_thinking_tokens": settings.max_thinking_tokens}
    return {**options, "budget_closing": prompts.budget_closing}


def stage_marks(
    settings: ResponseSettings, prompts: Prompts, checker_system: str
) -> Mapping[StageName, Mapping[str, Any]]:
    """What every stage's results depend on: kept beside them, compared when a run goes on."""
    tags = (prompts.response_tag, prompts.reasoning_tag)
    marks_of_text = (prompts.description_open, prompts.description_close)
    texts: dict[StageName, tuple[str, ...]] = {
        "generate": (prompts.self_generation_system, *marks_of_text, *prompts.own_layouts("self_generation_user")),
        "rephrase": (
            *(prompts.rephrase_system, prompts.rephrase_instruction, *tags),
            *prompts.own_layouts("rephrase_user"),
        ),
    }
    if settings.checker_llm is not None:
        texts["check"] = (checker_system, *tags, *prompts.own_layouts("checker_user"))
    marks: dict[StageName, Mapping[str, Any]] = {}
    for stage, shown in texts.items():
        marks[stage] = {
            "llm": llm_mark(settings.checker_llm if stage == "check" and settings.checker_llm else settings.llm),
            "seed": settings.seed,
            "max_model_len": settings.max_model_len,
            **sampling_options(settings, prompts, stage),
            "prompt_texts": text_mark(*shown),
        }
    return marks


def _read_checker_prompt(settings: ResponseSettings, prompts: Prompts) -> str:
    if settings.checker_llm is None:
        return ""
    if settings.checker_prompt is None:
        return prompts.checker_system
    path = Path(settings.checker_prompt)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"checker prompt {path} cannot be read ({error}); give a text file") from error
