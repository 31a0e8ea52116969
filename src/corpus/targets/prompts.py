"""Prompts of the audio corpora: a language model writes some for every description, then checks each.

Both stages run over one engine (two, with another checker), resumable at every row. Published reference:
``scripts/alarm/create_prompts_offline.py`` of Blinorot/ALARM; its texts, list format and choice rule are not public.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.common.errors import UserError
from src.common.estimate import Estimate
from src.common.existing import LISTING, is_empty, next_step, read_record, set_problem
from src.common.files import json_line
from src.common.lock import empty_folder, locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import prompts_dir, raw_dir
from src.common.run_record import write_run_record
from src.corpus.targets.dry_run import DryRun, Show, report_dry_run, show_stages
from src.corpus.targets.engine_pool import EnginePool, Placement, TextEngine, engine_starter
from src.corpus.targets.llm_settings import DROPPED_FILE, PromptSettings, dropped_keys, work_dir
from src.corpus.targets.prompt_stages import PromptChoice, PromptRow, draw_examples, open_descriptions
from src.corpus.targets.stage_job import StageJob, run_jobs
from src.dataset.row_log import changed_settings
from src.dataset.tables import native_splits
from src.dataset.writer import write_rows
from src.prompts.texts import Prompts, load_prompts

_log = get_logger(__name__)
COLUMNS = {"dataset_index": int, "audio_description": str, "prompt": str}


def create_prompts(
    datasets: Sequence[str],
    settings: PromptSettings,
    start_engine: Callable[[str], TextEngine] | None = None,
    overwrite: bool = False,
    placement: Placement | None = None,
) -> dict[str, dict[str, Any]]:
    """Make the prompt sets of ``datasets`` and return the counts of each (see :class:`_Counts`).

    A corpus that has a prompt set is skipped, whoever made it, unless it was made here by the same settings for fewer
    rows; ``overwrite`` discards it. A run that was killed continues where it stopped. Rows that never pass are left
    out of the set and listed in ``dropped.jsonl``. ``start_engine`` replaces the engines in tests.

    Raises :class:`UserError` for a missing raw set, results that other settings made, prompts of another program that
    are not complete, or, once all others are done, for corpora in which no row got a prompt.
    """
    missing = [dataset for dataset in datasets if not raw_dir(dataset).is_dir()]
    if missing:
        raise UserError(f"no raw set of {', '.join(missing)} in {raw_dir('NAME').parent}; collect it first")
    pool = EnginePool(engine_starter(settings, placement, start_engine))
    summary: dict[str, dict[str, Any]] = {}
    datasets = list(dict.fromkeys(datasets))
    with locked_folders([work_dir(dataset) for dataset in datasets]) as changed, closing(pool):
        if may_discard(overwrite, changed, work_dir("NAME").parent):
            for dataset in datasets:  # killed in between, the next --overwrite does it
                empty_folder(work_dir(dataset))
                shutil.rmtree(prompts_dir(dataset), ignore_errors=True)
        wanted = [dataset for dataset in datasets if not _is_done(dataset, settings)]
        # a checker of its own needs another engine: run it over all corpora at once, else finish them one by one
        groups = [wanted] if settings.checker != settings.llm else [[dataset] for dataset in wanted]
        for group in filter(None, groups):
            summary.update(_run(group, settings, pool))
    empty = {name: result["dropped"] for name, result in summary.items() if not result["rows"]}
    if empty:
        raise UserError(
            f"no row got a prompt in {', '.join(empty)} ({empty}): the model's outputs are in "
            f"{work_dir(next(iter(empty)))}; try another model or a larger --max-tokens with --overwrite"
        )
    return summary


def estimate_prompts(
    datasets: Sequence[str],
    settings: PromptSettings,
    options: DryRun,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
    placement: Placement | None = None,
) -> Estimate:
    """Show what :func:`create_prompts` with these arguments would cost; nothing is kept of its sample."""
    prompts = load_prompts(settings.prompts)
    wanted = [dataset for dataset in dict.fromkeys(datasets) if not _is_done(dataset, settings)]

    def jobs(folder: Path) -> list[StageJob]:
        return [choice.job for name in wanted for choice in _open(name, settings, prompts, folder / name)]

    return report_dry_run(jobs, settings, placement, options, show, start_engine)


def show_prompts(
    dataset: str,
    row: int,
    settings: PromptSettings,
    placement: Placement,
    show: Show,
    start_engine: Callable[[str], TextEngine] | None = None,
) -> None:
    """Show the first attempt at the row at position ``row`` of a corpus, and the chosen prompt; nothing is stored.

    Raises :class:`UserError` if the corpus is not collected or has no such row.
    """
    splits = native_splits(raw_dir(dataset), f"raw set {dataset}")
    examples = draw_examples(dataset, splits, settings.examples, settings.seed)
    prompts = load_prompts(settings.prompts)
    with tempfile.TemporaryDirectory() as scratch:
        choice = PromptChoice(dataset, splits[0], settings, prompts, Path(scratch), examples, only=row)
        with closing(choice.job):
            show_stages(choice.job, engine_starter(settings, placement, start_engine), show)
            choice.job.update_passed(0)
            (outcome,) = choice.rows()
    show(f"=== chosen prompt ({outcome.status}) ===\n{outcome.prompt}")


def _open(dataset: str, settings: PromptSettings, prompts: Prompts, folder: Path) -> list[PromptChoice]:
    """Every split of a corpus, with its logs in ``folder``."""
    splits = native_splits(raw_dir(dataset), f"raw set {dataset}")
    examples = draw_examples(dataset, splits, settings.examples, settings.seed)
    return [PromptChoice(dataset, split, settings, prompts, folder, examples) for split in splits]


def _is_done(dataset: str, settings: PromptSettings) -> bool:
    """Whether a corpus is to be skipped; logs why."""
    folder = prompts_dir(dataset)
    known = read_record(folder)
    before = known.get("config", {})
    # work without a finished set was killed before the set, or between the set and its record
    if not is_empty(work_dir(dataset)) and not (known and (folder / LISTING).is_file()):
        return False
    if "examples" not in before:  # of another program, or imported: complete, or for the user to decide
        wanted = {
            split: np.setdiff1d(open_descriptions(dataset, split, settings.limit).keys, dropped_keys(dataset, split))
            for split in native_splits(raw_dir(dataset))
        }
        problem = set_problem(folder, COLUMNS, wanted)
        return next_step(f"prompts of {dataset}", folder, problem, ours=False) == "skip"
    recorded = settings.recorded()
    changed = changed_settings({name: before.get(name) for name in recorded}, recorded)
    if changed:
        listed = "; ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
        made = "skipped, its prompts were made with other settings"
        _log.warning("%s: %s (%s); --overwrite makes them again", dataset, made, listed)
        return True
    done, asked = before.get("limit"), settings.limit
    if done is not None and (asked is None or asked > done):
        _log.info("%s: had prompts for the first %d rows, going on", dataset, done)
        return False
    # more tries are worth a run only if rows are missing
    if settings.tries > before["tries"] and known["result"]["dropped"]:
        _log.info("%s: trying %s again", dataset, known["result"]["dropped"])
        return False
    _log.info("%s: skipped, its prompts are done (%s)", dataset, folder)
    return True


def _run(datasets: Sequence[str], settings: PromptSettings, pool: EnginePool) -> dict[str, dict[str, Any]]:
    """Take some corpora through all attempts, then write their sets."""
    prompts = load_prompts(settings.prompts)
    with ExitStack() as stack:
        corpora: dict[str, list[PromptChoice]] = {}
        for dataset in datasets:
            corpora[dataset] = _open(dataset, settings, prompts, work_dir(dataset))
            rows = sum(choice.keys.size for choice in corpora[dataset])
            requests = sum(choice.job.num_rows for choice in corpora[dataset])
            _log.info("%s: %d rows, %d different requests", dataset, rows, requests)
            for choice in corpora[dataset]:
                stack.callback(choice.job.close)
        jobs = [choice.job for choices in corpora.values() for choice in choices]
        run_jobs(jobs, settings.attempts, pool, "requests without a prompt")
        return {dataset: _write(dataset, settings, prompts, choices) for dataset, choices in corpora.items()}


def _write(
    dataset: str, settings: PromptSettings, prompts: Prompts, choices: Sequence[PromptChoice]
) -> dict[str, Any]:
    """Write the set, the list of dropped rows and the record."""
    folder, work = prompts_dir(dataset), work_dir(dataset)
    counts = _Counts()
    listed = work / DROPPED_FILE
    with listed.open("w", encoding="utf-8") as dropped:
        splits = {choice.job.split: _entries(choice, counts, dropped) for choice in choices}
        if not any((choice.job.passed >= 0).any() for choice in choices):
            # a set without rows would count as done; the rows are only counted and listed as dropped
            for entries in splits.values():
                list(entries)
            return counts.result(choices)
        write_rows(folder, splits, COLUMNS)
    listed.replace(folder / DROPPED_FILE)  # after the set, which it describes
    result = counts.result(choices)
    writer, checker = (stage.fingerprint["llm"] for stage in choices[0].job.stages)
    config = {"dataset": dataset, **asdict(settings), "llm_mark": writer, "checker_mark": checker}
    write_run_record(
        folder, config, prompts_digest=prompts.digest(), prompts=prompts.record(),
        example_descriptions=choices[0].examples, result=result,
    )  # fmt: skip
    _log.info("%s: %d prompts, %d different, dropped %s", folder, result["rows"], result["unique"], result["dropped"])
    return result


class _Counts:
    """Counts over the rows of a set while they are written; keeps 8 bytes per row to count different prompts."""

    def __init__(self) -> None:
        self._status: Counter[str] = Counter()
        self._attempts: Counter[int] = Counter()
        self._prompts = array("Q")

    def add(self, row: PromptRow) -> None:
        """Count one row."""
        self._status[row.status] += 1
        if row.status == "ok":
            self._attempts[row.attempts] += 1
            digest = hashlib.blake2b(row.prompt.encode(), digest_size=8).digest()
            self._prompts.append(int.from_bytes(digest, "little"))

    def result(self, choices: Sequence[PromptChoice]) -> dict[str, Any]:
        """``rows`` of the set, ``unique`` prompts, ``dropped`` rows by reason, rows by ``attempts``.

        And ``requests`` made for them, and over those that passed, ``candidates`` written and ``good``.
        """
        candidates = [choice.candidate_counts() for choice in choices]
        return {
            "rows": self._status["ok"],
            "unique": int(np.unique(np.array(self._prompts, dtype=np.uint64)).size),
            "dropped": {status: count for status, count in sorted(self._status.items()) if status != "ok"},
            "attempts": {str(number): count for number, count in sorted(self._attempts.items())},
            "requests": sum(choice.job.num_rows for choice in choices),
            "candidates": sum(written for written, _ in candidates),
            "good": sum(good for _, good in candidates),
        }


def _entries(choice: PromptChoice, counts: _Counts, dropped: IO[str]) -> Iterator[dict[str, Any]]:
    for row in choice.rows():
        counts.add(row)
        if row.status == "ok":
            yield dict(zip(COLUMNS, (row.dataset_index, row.description, row.prompt), strict=True))
        else:
            entry = {"split": choice.job.split, "dataset_index": row.dataset_index, "reason": row.status}
            dropped.write(json_line(entry))
