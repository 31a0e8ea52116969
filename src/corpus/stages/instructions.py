"""Training targets of instruction sets: the frozen LLM answers the question that is spoken in the clip.

With context the model reads context and question, without it the question alone; one user turn, no system turn, no
rewriting. Published reference: ``scripts/alarm/generate_instruction_responses.py`` of Blinorot/ALARM.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.existing import is_empty, next_step, read_record, set_problem
from src.common.lock import empty_folder, held, may_discard
from src.common.log import get_logger
from src.common.naming import ResponseName, model_short_name
from src.common.paths import raw_dir, responses_dir
from src.common.run_record import write_run_record
from src.corpus.recipes import instruction_base, instruction_modes, instruction_sets
from src.corpus.sets.subset import save_rows
from src.corpus.stages.attempts import run_attempts, run_stage
from src.corpus.stages.placement import Placement, start_text_engine
from src.corpus.stages.response_job import JOURNAL, JobSpec, ResponseJob, Row
from src.corpus.stages.response_set import Entry, SetLayout, stored_result, write_response_set
from src.corpus.stages.response_settings import AnswerSettings
from src.corpus.stages.text_engine import EnginePool, TextEngine, llm_mark
from src.dataset.tables import native_splits, open_split, read_keys
from src.prompts.layouts import Messages

_log = get_logger(__name__)
FILTERED = "_filtered"
NOT_MADE = "not_made"
ANSWERS = {"WithContext": "llm_answer_with_context", "NoContext": "llm_answer_no_context"}
PUBLISHED_COLUMNS = ("dataset_index", "question", "context", *ANSWERS.values())
_BATCH = 1000


def ask_with_context(question: str, context: str) -> Messages:
    """Context and question on lines of their own, in one user turn."""
    return [{"role": "user", "content": f"{context}\n{question}".strip()}]


def ask_without_context(question: str, context: str) -> Messages:
    """The question alone."""
    return [{"role": "user", "content": question}]


ASK: Mapping[str, Callable[[str, str], Messages]] = {
    "WithContext": ask_with_context,
    "NoContext": ask_without_context,
}
_JOURNALS = {"WithContext": "with_context", "NoContext": "no_context"}


@dataclass(frozen=True)
class InstructionRow:
    """Answers to one question by mode; a mode that was not asked for is absent."""

    answers: Mapping[str, Row]

    def entry(self) -> Entry:
        """The row of the set: the published columns, then how each answer came about."""
        any_answer = next(iter(self.answers.values()))
        values: dict[str, str | int] = {
            "dataset_index": any_answer.dataset_index,
            "question": any_answer.texts[0],
            "context": any_answer.texts[1],
        }
        for mode, ending in (("WithContext", ""), ("NoContext", "_no_context")):
            answer = self.answers.get(mode)
            values["llm_answer_with_context" if not ending else "llm_answer_no_context"] = (
                answer.text if answer else ""
            )
            values[f"status{ending}"] = answer.status if answer else NOT_MADE
            values[f"num_tokens{ending}"] = answer.num_tokens if answer else 0
            values[f"finish_reason{ending}"] = answer.finish_reason if answer else ""
        return values


_KINDS = (("status", str), ("num_tokens", int), ("finish_reason", str))
LAYOUT: SetLayout[InstructionRow] = SetLayout(
    {
        "dataset_index": int,
        **dict.fromkeys(("question", "context", "llm_answer_with_context", "llm_answer_no_context"), str),
        **{f"{name}{ending}": kind for ending in ("", "_no_context") for name, kind in _KINDS},
    },
    InstructionRow.entry,
)


@dataclass
class InstructionStatistics:
    """``rows``, and for every mode sound rows, failed ones by status, cut answers and mean tokens."""

    modes: Sequence[str]
    rows: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: InstructionRow) -> None:
        """Count one row."""
        self.rows += 1
        for mode, answer in row.answers.items():
            counts = self.counts.setdefault(mode, Counter())
            counts[answer.status] += 1
            if answer.status == "ok":
                counts[" tokens"] += answer.num_tokens
                counts[" cut"] += answer.finish_reason == "length"

    def result(self) -> dict[str, Any]:
        """The counts."""
        found: dict[str, Any] = {"rows": self.rows}
        for mode in self.modes:
            counts = self.counts.get(mode, Counter())
            ok = counts["ok"]
            failed = {
                status: count for status, count in sorted(counts.items()) if status[0] != " " and status != "ok"
            }
            mean = round(counts[" tokens"] / ok, 2) if ok else 0.0
            found[mode] = {"ok": ok, "failed": failed, "cut": counts[" cut"], "mean_tokens": mean}
        return found


def choose_sets(names: Sequence[str]) -> list[str]:
    """Raw sets to be answered: the named ones, else the instruction sets that are here as training reads them.

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
    ``raw/NAME_filtered`` is there, its rows of the answers are written as its response set too. Results are kept row
    by row: a run that was killed goes on where it stopped. A set whose answers were not made here is skipped;
    ``overwrite`` discards them. ``placement`` is where the engines run; ``start_engine``
    replaces them in tests.

    Returns counts by response folder. Raises :class:`UserError` for a set that is missing or lacks columns, results
    that other settings made, or answers of another program that are not complete.
    """
    pool = EnginePool(start_engine or functools.partial(start_text_engine, settings, placement or Placement()))
    runs = {
        name: _Run(name, settings, tuple(modes or instruction_modes(name)), pool) for name in choose_sets(datasets)
    }
    summary: dict[str, dict[str, Any]] = {}
    wanted = [run for run in runs.values() if run.is_wanted(overwrite)]
    try:
        for run in wanted:
            with held([run.folder]) as changed:
                summary |= run.run(may_discard(overwrite, changed, run.folder))
    finally:
        pool.close()
    return summary


class _Run:
    """One instruction set through all its answers."""

    def __init__(self, name: str, settings: AnswerSettings, modes: Sequence[str], pool: EnginePool) -> None:
        self.name = name
        self.settings = settings
        self.modes = modes
        self.pool = pool
        self.model = model_short_name(settings.llm)
        self.folder = self._folder(name)

    def is_wanted(self, overwrite: bool) -> bool:
        """Whether there is something to do. Raises :class:`UserError` for a set that the user must decide about."""
        if is_empty(self.folder) or (self.folder / JOURNAL).is_dir():
            return True
        tables = {split: open_split(raw_dir(self.name), split, f"raw set {self.name}")
                  for split in native_splits(raw_dir(self.name))}  # fmt: skip
        keys = {split: read_keys(table, f"raw set {self.name}")[: self.settings.limit]
                for split, table in tables.items()}  # fmt: skip
        problem = set_problem(self.folder, PUBLISHED_COLUMNS, keys) or self._unanswered()
        what = f"responses {self.folder.name}"
        return next_step(what, self.folder, problem, ours=False, overwrite=overwrite) != "skip"

    def _unanswered(self) -> str | None:
        """A wanted mode of which a complete set has no answer at all: it was made for the other one."""
        for mode in self.modes:
            column = ANSWERS[mode]
            for split in native_splits(self.folder):
                table = open_split(self.folder, split, self.folder.name).select_columns([column])
                starts = range(0, len(table), _BATCH)
                if len(table) and not any(any(table[start : start + _BATCH][column]) for start in starts):
                    return f"split {split} has no answers {mode}"
        return None

    def run(self, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Answer what is left and write the sets; counts by response folder."""
        if overwrite:
            empty_folder(self.folder)
        splits = native_splits(raw_dir(self.name))
        jobs = {(split, mode): ResponseJob(self._spec(split, mode)) for split in splits for mode in self.modes}

        def once(attempt: int) -> None:
            for job in jobs.values():
                run_stage(self.pool, self.settings.llm, self.settings.sampling(), job, "generate", attempt)

        try:
            run_attempts(list(jobs.values()), self.settings.attempts, once)
            return self._write(splits, jobs)
        finally:
            for job in jobs.values():
                job.close()

    def _folder(self, name: str) -> Path:
        return responses_dir(self.model, ResponseName(name, self.model, self.settings.max_tokens).format())

    def _spec(self, split: str, mode: str) -> JobSpec:
        mark = {
            "llm": llm_mark(self.settings.llm),
            "seed": self.settings.seed,
            "max_model_len": self.settings.max_model_len,
            **self.settings.sampling(),
            "mode": mode,
        }
        return JobSpec(
            dataset=self.name.removesuffix(FILTERED),  # a row is answered alike, filtered before or afterwards
            split=split,
            table_folder=raw_dir(self.name),
            texts=("question", "context"),
            messages=ASK[mode],
            hint="only instruction sets are answered here; for audio corpora: generate_responses.py",
            folders={"generate": self.folder},
            first_folder=self.folder,
            marks={"generate": mark},
            seed=self.settings.seed,
            limit=self.settings.limit,
            first_name=_JOURNALS[mode],
        )

    def _write(self, splits: Sequence[str], jobs: Mapping[tuple[str, str], ResponseJob]) -> dict[str, dict[str, Any]]:
        config = {
            "dataset": self.name,
            **asdict(self.settings),
            "modes": list(self.modes),
            "llm_mark": llm_mark(self.settings.llm),
            "journal_bytes": sum(job.journal_bytes for job in jobs.values()),
        }
        result = stored_result(self.folder, config)
        if result is None:
            rows = {split: _joined({mode: jobs[split, mode] for mode in self.modes}) for split in splits}
            result = write_response_set(self.folder, rows, LAYOUT, InstructionStatistics(self.modes), config)
        _log.info("%s: %s", self.folder, result)
        summary = {self.folder.name: result}
        filtered = f"{self.name}{FILTERED}"
        if raw_dir(filtered).is_dir():
            counts = filter_responses(self.folder, self._folder(filtered), filtered)
            summary |= {self._folder(filtered).name: counts} if counts is not None else {}
        return summary


def _joined(jobs: Mapping[str, ResponseJob]) -> Iterator[InstructionRow]:
    """Rows of all modes side by side: the tables are the same."""
    for answers in zip(*(job.final_rows() for job in jobs.values()), strict=True):
        yield InstructionRow(dict(zip(jobs, answers, strict=True)))


def filter_responses(source: Path, target: Path, filtered: str, overwrite: bool = False) -> dict[str, Any] | None:
    """Write the answers in ``source`` to the rows of ``raw/FILTERED`` as the set ``target``; counts by split.

    Rows that the answers lack (they were made with ``--limit``) are left out. The caller holds ``source``. A target
    that was answered by itself, or that another program made, stays as it is: the result is then None.
    """
    import numpy as np

    kept = {}
    for split in native_splits(raw_dir(filtered)):
        if split in native_splits(source):
            answered = read_keys(open_split(source, split, f"responses {source.name}"), source.name)
            wanted = read_keys(open_split(raw_dir(filtered), split, f"raw set {filtered}"), filtered)
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
