"""Prompts of the audio corpora: one language model writes some for every description, then each is checked.

Both stages run over one engine (two, with another checker), resumable at every row. Published reference:
``scripts/alarm/create_prompts_offline.py`` of Blinorot/ALARM; its texts, list format and choice rule are not public.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import LISTING, next_step, read_record, set_problem
from src.common.json_lines import json_line
from src.common.log import get_logger
from src.common.paths import prompts_dir, raw_dir
from src.common.run_record import write_run_record
from src.corpus.stages.placement import Placement, start_text_engine
from src.corpus.stages.prompt_job import (
    STAGES,
    PromptJob,
    PromptRow,
    PromptSpec,
    StageName,
    draw_examples,
    open_descriptions,
)
from src.corpus.stages.prompt_settings import DROPPED_FILE, PromptSettings, dropped_keys, work_dir
from src.corpus.stages.response_settings import drawing
from src.corpus.stages.saved_set import write_splits
from src.corpus.stages.text_engine import (
    EnginePool,
    TextEngine,
    llm_mark,
    make_sampling,
    run_tasks,
    text_mark,
)
from src.dataset.tables import native_splits
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
    rows; ``overwrite`` discards it. Results are kept row by row: a run that was killed goes on where it stopped. Rows
    that never pass are left out of the set and listed in ``dropped.jsonl``. ``placement`` is where the engines run;
    ``start_engine`` replaces them in tests.

    Raises :class:`UserError` for a missing raw set, results that other settings made, prompts of another program that
    are not complete, or, once all others are done, for corpora in which no row got a prompt.
    """
    missing = [dataset for dataset in datasets if not raw_dir(dataset).is_dir()]
    if missing:
        raise UserError(f"no raw set of {', '.join(missing)} in {raw_dir('NAME').parent}; collect it first")
    for dataset in datasets if overwrite else ():
        for folder in (work_dir(dataset), prompts_dir(dataset)):  # killed in between, the next --overwrite does it
            shutil.rmtree(folder, ignore_errors=True)
    wanted = [dataset for dataset in dict.fromkeys(datasets) if not _is_done(dataset, settings)]
    pool = EnginePool(start_engine or functools.partial(start_text_engine, settings, placement or Placement()))
    # a checker of its own needs another engine: run it over all corpora at once, else finish them one by one
    groups = [wanted] if settings.checker != settings.llm else [[dataset] for dataset in wanted]
    summary: dict[str, dict[str, Any]] = {}
    try:
        for group in groups:
            if group:
                summary.update(_Run(group, settings, pool).run())
    finally:
        pool.close()
    empty = {name: result["dropped"] for name, result in summary.items() if not result["rows"]}
    if empty:
        raise UserError(
            f"no row got a prompt in {', '.join(empty)} ({empty}): the model's outputs are in "
            f"{work_dir(next(iter(empty)))}; try another model or a larger --max-tokens with --overwrite"
        )
    return summary


def _is_done(dataset: str, settings: PromptSettings) -> bool:
    """Whether a corpus is to be skipped, and a line that says why."""
    folder = prompts_dir(dataset)
    known = read_record(folder)
    before = known.get("config", {})
    if work_dir(dataset).is_dir() and not (known and (folder / LISTING).is_file()):
        return False  # killed before the set, or between the set and its record
    if "examples" not in before:
        wanted = {
            split: np.setdiff1d(
                open_descriptions(dataset, raw_dir(dataset), split)[1][: settings.limit], dropped_keys(dataset, split)
            )
            for split in native_splits(raw_dir(dataset))
        }
        problem = set_problem(folder, COLUMNS, wanted)
        return next_step(f"prompts of {dataset}", folder, problem, ours=False) == "skip"
    changed = [
        f"{name} {before.get(name)!r} -> {value!r}"
        for name, value in settings.recorded().items()
        if before.get(name) != value
    ]
    if changed:
        _log.warning(
            "%s: skipped, its prompts were made with other settings (%s); --overwrite makes them again",
            dataset, "; ".join(changed),
        )  # fmt: skip
        return True
    done, asked = before.get("limit"), settings.limit
    if done is not None and (asked is None or asked > done):
        _log.info("%s: had prompts for the first %d rows, going on", dataset, done)
        return False
    if settings.tries > before["tries"] and known["result"]["dropped"]:
        _log.info("%s: trying %s again", dataset, known["result"]["dropped"])
        return False
    _log.info("%s: skipped, its prompts are done (%s)", dataset, folder)
    return True


class _Run:
    """Some corpora through all attempts, then their sets."""

    def __init__(self, datasets: Sequence[str], settings: PromptSettings, pool: EnginePool) -> None:
        self.settings = settings
        self.pool = pool
        self.prompts = load_prompts(settings.prompts)
        self.options = prompt_options(settings, self.prompts)
        self.marks = stage_marks(settings, self.prompts, self.options)
        self.examples: dict[str, tuple[str, ...]] = {}
        self.jobs = {dataset: self._open_jobs(dataset) for dataset in datasets}

    def _open_jobs(self, dataset: str) -> list[PromptJob]:
        splits = native_splits(raw_dir(dataset))
        specs = [
            prompt_spec(dataset, splits, split, self.settings, self.prompts, work_dir(dataset)) for split in splits
        ]
        self.examples[dataset] = specs[0].examples
        jobs = [PromptJob(spec) for spec in specs]
        rows = sum(job.keys.size for job in jobs)
        _log.info("%s: %d rows, %d different requests", dataset, rows, sum(job.requests for job in jobs))
        return jobs

    def run(self) -> dict[str, dict[str, Any]]:
        """All attempts, then the set of every corpus."""
        jobs = [job for corpus in self.jobs.values() for job in corpus]
        try:
            for attempt in range(self.settings.tries):
                for stage in STAGES:
                    for job in jobs:
                        self._stage(job, stage, attempt)
                left = sum(job.settle(attempt) for job in jobs)
                _log.info("attempt %d of %d: %d requests without a prompt", attempt + 1, self.settings.tries, left)
                if not left:
                    break
            return {dataset: self._write(dataset) for dataset in self.jobs}
        finally:
            for job in jobs:
                job.close()

    def _stage(self, job: PromptJob, stage: StageName, attempt: int) -> None:
        llm = self.settings.checker if stage == "check" else self.settings.llm
        label = f"{job.spec.dataset}/{job.spec.split}, attempt {attempt + 1}: {stage}"
        engine = functools.partial(self.pool.get, llm)
        sampling = functools.partial(make_sampling, self.options)
        run_tasks(label, engine, job.tasks(stage, attempt), sampling, job.finisher(stage, attempt))

    def _write(self, dataset: str) -> dict[str, Any]:
        """The set, the rows that were dropped, and the record."""
        jobs, folder, work = self.jobs[dataset], prompts_dir(dataset), work_dir(dataset)
        counts = _Counts()
        listed = work / DROPPED_FILE
        with listed.open("w", encoding="utf-8") as dropped:
            splits = {job.spec.split: _entries(job, counts, dropped) for job in jobs}
            if all(not (job.passed >= 0).any() for job in jobs):
                for entries in splits.values():
                    list(entries)  # only to count and list what was dropped
                return counts.result(jobs)
            write_splits(folder, splits, COLUMNS)
        listed.replace(folder / DROPPED_FILE)
        result = counts.result(jobs)
        config = {
            "dataset": dataset,
            **asdict(self.settings),
            "llm_mark": self.marks["write"]["llm"],
            "checker_mark": self.marks["check"]["llm"],
        }
        write_run_record(
            folder, config, prompts_digest=self.prompts.digest(), prompts=self.prompts.record(),
            example_descriptions=self.examples[dataset],
            result=result,
        )  # fmt: skip
        _log.info(
            "%s: %d prompts, %d different, dropped %s", folder, result["rows"], result["unique"], result["dropped"]
        )
        return result


def prompt_options(settings: PromptSettings, prompts: Prompts) -> dict[str, Any]:
    """How both stages draw: options of ``Sampling``."""
    drawn = drawing(settings, settings.max_tokens, settings.max_thinking_tokens)
    return {**drawn, "budget_closing": prompts.budget_closing}


def prompt_spec(
    dataset: str,
    splits: Sequence[str],
    split: str,
    settings: PromptSettings,
    prompts: Prompts,
    work_folder: Path,
    only: int | None = None,
) -> PromptSpec:
    """The job of one split; the writer is shown examples of all ``splits``."""
    return PromptSpec(
        dataset=dataset,
        split=split,
        raw_folder=raw_dir(dataset),
        work_folder=work_folder,
        marks=stage_marks(settings, prompts, prompt_options(settings, prompts)),
        prompts=prompts,
        examples=draw_examples(dataset, raw_dir(dataset), splits, settings.examples, settings.seed),
        seed=settings.seed,
        limit=settings.limit,
        only=only,
    )


def stage_marks(
    settings: PromptSettings, prompts: Prompts, options: dict[str, Any]
) -> dict[StageName, dict[str, Any]]:
    """What every stage's results depend on: kept beside them, compared when a run goes on."""
    tags = (prompts.description_open, prompts.description_close)
    texts = {
        "write": text_mark(prompts.writer_system, *prompts.writer_styles, *tags),
        "check": text_mark(prompts.prompt_checker_system, *tags),
    }
    common = {"seed": settings.seed, "max_model_len": settings.max_model_len, **options}
    return {
        "write": {
            "llm": llm_mark(settings.llm), **common, "prompt_texts": texts["write"], "examples": settings.examples,
        },
        "check": {"llm": llm_mark(settings.checker), **common, "prompt_texts": texts["check"]},
    }  # fmt: skip


class _Counts:
    """Counts over the rows of a set while they pass; 8 bytes a row are held to count different prompts."""

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

    def result(self, jobs: Sequence[PromptJob]) -> dict[str, Any]:
        """``rows`` of the set, ``unique`` prompts, ``dropped`` rows by reason, rows by ``attempts``.

        And ``requests`` made for them, and over those that passed, ``candidates`` written and ``good``.
        """
        candidates = [job.candidate_counts() for job in jobs]
        return {
            "rows": self._status["ok"],
            "unique": int(np.unique(np.array(self._prompts, dtype=np.uint64)).size),
            "dropped": {status: count for status, count in sorted(self._status.items()) if status != "ok"},
            "attempts": {str(number): count for number, count in sorted(self._attempts.items())},
            "requests": sum(job.requests for job in jobs),
            "candidates": sum(written for written, _ in candidates),
            "good": sum(good for _, good in candidates),
        }


def _entries(job: PromptJob, counts: _Counts, dropped: IO[str]) -> Iterator[dict[str, Any]]:
    for row in job.rows():
        counts.add(row)
        if row.status == "ok":
            yield {
                "dataset_index": row.dataset_index,
                "audio_description": row.description,
                "prompt": row.prompt,
            }
        else:
            entry = {"split": job.spec.split, "dataset_index": row.dataset_index, "reason": row.status}
            dropped.write(json_line(entry))
