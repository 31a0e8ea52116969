"""Training targets of instruction sets: the frozen LLM answers the question that is spoken in the clip.

With context the model reads context and question, without it the question alone; one user turn, no system turn, no
rewriting. Published reference: ``scripts/alarm/generate_instruction_responses.py`` of Blinorot/ALARM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.estimate import Estimate
from src.common.existing import next_step, read_record, set_problem
from src.common.lock import empty_folder, locked_folders, may_discard
from src.common.log import get_logger
from src.common.naming import ResponseName
from src.common.paths import raw_dir, responses_dir
from src.common.run_record import write_run_record
from src.corpus.targets.dry_run import DryRun, Show, report_dry_run
from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine, engine_starter
from src.corpus.targets.llm_settings import AnswerSettings
from src.corpus.targets.response_stages import (
    AnswerCounts,
    final_rows,
    first_stage,
    made_elsewhere,
    stored_result,
    wanted_keys,
)
from src.corpus.targets.stage_job import StageJob, TextTable, llm_fingerprint, run_jobs
from src.dataset.corpus_names import instruction_base, instruction_modes, instruction_sets
from src.dataset.row_log import JOURNAL
from src.dataset.tables import column_values, native_splits, open_keyed, open_split
from src.dataset.writer import save_rows, write_rows
from src.prompts.messages import Messages, instruction_messages

_log = get_logger(__name__)
FILTERED = "_filtered"
NOT_MADE = "not_made"
ANSWERS = {"WithContext": "llm_answer_with_context", "NoContext": "llm_answer_no_context"}
PUBLISHED_COLUMNS = ("dataset_index", "question", "context", *ANSWERS.values())
ASK: Mapping[str, Callable[[str, str], Messages]] = {
    "WithContext": instruction_messages,
    "NoContext": lambda question, context: instruction_messages(question, None),
}
"""The messages of a row by mode, from its question and context."""
_STAGES = {"WithContext": "with_context", "NoContext": "no_context"}


_PUBLISHED = dict.fromkeys(PUBLISHED_COLUMNS, str) | {"dataset_index": int}
_FURTHER = {"status": str, "num_tokens": int, "finish_reason": str}
COLUMNS = _PUBLISHED | {f"{name}{ending}": kind for ending in ("", "_no_context") for name, kind in _FURTHER.items()}
"""Columns of the set: the published ones, then how each answer came about."""


def choose_sets(names: Sequence[str]) -> list[str]:
    """Raw sets to be answered: the named ones, else the instruction sets that are here, as training reads them.

    Raises :class:`UserError` if a set is not here.
    """
    if not names:
        found = []
        for name in instruction_sets():
            base = instruction_base(name)
            here = [each for each in dict.fromkeys((base, name)) if raw_dir(each).is_dir()]
            if here and here[0] != base:
                _log.warning("%s is not filtered; training reads %s: see scripts/alarm/filter_dataset.py", name, base)
            found += here[:1]
        if not found:
            raise UserError(
                f"no instruction set is collected in {raw_dir('NAME').parent}; see scripts/alarm/collect.py"
            )
        return found
    for name in names:
        native_splits(raw_dir(name), f"raw set {name}")
    return list(names)


def generate_instruction_responses(
    datasets: Sequence[str],
    settings: AnswerSettings,
    modes: Sequence[str] | None = None,
    start_engine: Callable[[str], TextEngine] | None = None,
    overwrite: bool = False,
    placement: Placement | None = None,
) -> dict[str, dict[str, Any]]:
    """Answer the questions of raw sets (columns ``question`` and ``context``), split by split.

    ``modes`` (``WithContext``, ``NoContext``) are those that the set is trained on unless given. Where
    ``raw/NAME_filtered`` is there, its rows of the answers are written as its response set too. A run that was killed
    continues where it stopped. A set whose answers were not made here is skipped; ``overwrite`` discards them.
    ``start_engine`` replaces the engines in tests.

    Returns counts by response folder. Raises :class:`UserError` for a set that is missing or lacks columns, results
    that other settings made, or answers of another program that are not complete.
    """
    sets = {name: tuple(modes or instruction_modes(name)) for name in choose_sets(datasets)}
    wanted = [name for name, asked in sets.items() if _is_wanted(name, settings, asked, overwrite)]
    summary: dict[str, dict[str, Any]] = {}
    with closing(EnginePool(engine_starter(settings, placement, start_engine))) as pool:
        for name in wanted:
            folder = _folder(name, settings)
            with locked_folders([folder]) as changed:
                if may_discard(overwrite, changed, folder):
                    empty_folder(folder)
                summary |= _run(name, settings, sets[name], pool)
    return summary


def _folder(name: str, settings: AnswerSettings) -> Path:
    return responses_dir(settings.llm_name, ResponseName(name, settings.llm_name, settings.max_tokens).format())


def _is_wanted(name: str, settings: AnswerSettings, modes: Sequence[str], overwrite: bool) -> bool:
    """Whether a set is to be answered. Raises :class:`UserError` for a set that the user must decide about."""
    folder = _folder(name, settings)
    if not made_elsewhere(folder):
        return True
    keys = wanted_keys(raw_dir(name), f"raw set {name}", settings.limit)
    problem = set_problem(folder, PUBLISHED_COLUMNS, keys) or _unanswered(folder, modes)
    return next_step(f"responses {folder.name}", folder, problem, ours=False, overwrite=overwrite) != "skip"


def _unanswered(folder: Path, modes: Sequence[str]) -> str | None:
    """A wanted mode of which a complete set has no answer at all: it was made for the other one."""
    for mode in modes:
        for split in native_splits(folder):
            table = open_split(folder, split, folder.name)
            if len(table) and not any(column_values(table, ANSWERS[mode])):
                return f"split {split} has no answers {mode}"
    return None


def estimate_instruction_responses(
    datasets: Sequence[str],
    settings: AnswerSettings,
    options: DryRun,
    show: Show,
    modes: Sequence[str] | None = None,
    start_engine: Callable[[str], TextEngine] | None = None,
    placement: Placement | None = None,
) -> Estimate:
    """Show what :func:`generate_instruction_responses` would cost; nothing is kept of its sample."""
    sets = {name: tuple(modes or instruction_modes(name)) for name in choose_sets(datasets)}
    wanted = [name for name, asked in sets.items() if _is_wanted(name, settings, asked, False)]

    def jobs(folder: Path) -> list[StageJob]:
        return [job for name in wanted for job in _open_jobs(name, settings, sets[name], folder / name).values()]

    return report_dry_run(jobs, settings, placement, options, show, start_engine)


def _open_jobs(
    name: str, settings: AnswerSettings, modes: Sequence[str], folder: Path
) -> dict[tuple[str, str], StageJob]:
    """Jobs of a set by split and mode, with their logs in ``folder``."""
    hint = "only instruction sets are answered here; for audio corpora: generate_responses.py"
    # part of the seeds: a row is answered alike, filtered before or afterwards
    dataset = name.removesuffix(FILTERED)
    jobs: dict[tuple[str, str], StageJob] = {}
    for split in native_splits(raw_dir(name)):
        columns = ("question", "context")
        texts = TextTable(f"texts of {name}", raw_dir(name), split, columns, hint, settings.limit)
        for mode in modes:
            stages = [first_stage(_STAGES[mode], settings, texts, ASK[mode], {}, mode=mode)]
            jobs[split, mode] = StageJob(dataset, split, texts, stages, folder / JOURNAL / split, settings.seed)
    return jobs


def _run(name: str, settings: AnswerSettings, modes: Sequence[str], pool: EnginePool) -> dict[str, dict[str, Any]]:
    """Answer what is left of a set, then write its sets; counts by response folder."""
    folder = _folder(name, settings)
    jobs = _open_jobs(name, settings, modes, folder)
    with ExitStack() as stack:
        for job in jobs.values():
            stack.callback(job.close)
        run_jobs(list(jobs.values()), settings.attempts, pool, "rows without a sound response")
        config = {
            "dataset": name,
            **settings.recorded(),
            "modes": list(modes),
            "llm_mark": llm_fingerprint(settings.llm),
            "journal_bytes": sum(job.log_bytes for job in jobs.values()),
        }
        result = stored_result(folder, config)
        if result is None:
            counts = {mode: AnswerCounts() for mode in modes}
            splits = dict.fromkeys(split for split, _ in jobs)
            rows = {split: _entries({mode: jobs[split, mode] for mode in modes}, counts) for split in splits}
            write_rows(folder, rows, COLUMNS)
            total = counts[modes[0]].status.total()
            result = {"rows": total, **{mode: each.result() for mode, each in counts.items()}}
            write_run_record(folder, config, result=result)
    _log.info("%s: %s", folder, result)
    summary = {folder.name: result}
    filtered = f"{name}{FILTERED}"
    if raw_dir(filtered).is_dir():
        target = _folder(filtered, settings)
        made = filter_responses(folder, target, filtered)
        summary |= {target.name: made} if made is not None else {}
    return summary


def _entries(jobs: Mapping[str, StageJob], counts: Mapping[str, AnswerCounts]) -> Iterator[dict[str, Any]]:
    """Rows of the set, with the answers of all modes to each question; the answers are counted by mode."""
    for row in zip(*map(final_rows, jobs.values()), strict=True):
        answers = dict(zip(jobs, row, strict=True))
        question, context = row[0].texts
        values: dict[str, Any] = {"dataset_index": row[0].dataset_index, "question": question, "context": context}
        for mode, ending in (("WithContext", ""), ("NoContext", "_no_context")):
            answer = answers.get(mode)
            if answer:
                counts[mode].add(answer)
            values[ANSWERS[mode]] = answer.text if answer else ""
            values[f"status{ending}"] = answer.status if answer else NOT_MADE
            values[f"num_tokens{ending}"] = answer.num_tokens if answer else 0
            values[f"finish_reason{ending}"] = answer.finish_reason if answer else ""
        yield values


def filter_responses(source: Path, target: Path, filtered: str, overwrite: bool = False) -> dict[str, Any] | None:
    """Write the answers in ``source`` to the rows of ``raw/FILTERED`` as the set ``target``; counts by split.

    Rows that the answers lack (they were made with ``--limit``) are left out. The caller holds ``source``. A target
    that was answered by itself, or that another program made, stays as it is: the result is then None.
    """
    kept = {}
    for split in native_splits(raw_dir(filtered)):
        if split in native_splits(source):
            _, answered = open_keyed(source, split, f"responses {source.name}")
            _, wanted = open_keyed(raw_dir(filtered), split, f"raw set {filtered}")
            kept[split] = np.intersect1d(wanted, answered)
    if (target / JOURNAL).is_dir():
        return None
    if "rows_of" not in read_record(target).get("config", {}):  # else made here, from an earlier state of both sets
        problem = set_problem(target, PUBLISHED_COLUMNS, kept)
        if next_step(f"responses {target.name}", target, problem, ours=False, overwrite=overwrite) == "skip":
            return None
    counts = save_rows(source, target, kept)
    write_run_record(target, {"dataset": filtered, "rows_of": source.name}, result={"rows": counts})
    return {"rows": counts, "rows_of": source.name}
