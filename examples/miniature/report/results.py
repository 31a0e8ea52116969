"""Everything the report states, computed from the saved runs: verdicts, betraying shares, frozen weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.miniature.report.manifest import Manifest, SystemRuns, TargetSet, TrainingRun
from examples.miniature.report.scoring import (
    Score,
    Verdict,
    bootstrap_ratio,
    judge_choices,
    judge_exact,
    saved_response,
    score,
)  # fmt: skip
from src.audio.roots import roots_of, stored_cell
from src.benchmarks.intervals import Interval, share
from src.common.errors import UserError
from src.common.existing import read_record
from src.common.files import read_json_lines
from src.prompts.leakage import leaks_text_source
from src.prompts.reasoning import split_response
from src.prompts.texts import Prompts, load_prompts

Rows = list[dict[str, Any]]
Verdicts = dict[str, list[Verdict]]
AnswersByKey = dict[str, dict[int, dict[str, Any]]]


@dataclass(frozen=True)
class SystemResults:
    """One system's verdicts and saved answers, by split; ``betraying`` over the thoughts of all its answers."""

    runs: SystemRuns
    choice: Verdicts
    open: Verdicts
    choice_answers: AnswersByKey
    open_answers: AnswersByKey
    leaking: Interval

    def choice_score(self, split: str | None = None) -> Score | None:
        """Multiple-choice score of a split, of all splits together with None; None if nothing was answered."""
        return _score_of(self.choice, split)

    def open_score(self, split: str | None = None) -> Score | None:
        """Exact-answer score of a split, of all splits together with None; None if nothing was answered."""
        return _score_of(self.open, split)


@dataclass(frozen=True)
class TargetResults:
    """A folder of training targets: how many betray text, and the targets by ``dataset_index``."""

    target: TargetSet
    leaking: Interval
    texts: dict[int, str]
    prompts: dict[int, str]


@dataclass(frozen=True)
class TrainingResults:
    """One training run: its curve (records with ``step``) and its record (``run.json``), empty if missing."""

    run: TrainingRun
    curve: list[dict[str, Any]]
    record: dict[str, Any]

    @property
    def digests(self) -> tuple[str, str] | None:
        """SHA-256 of the language model's weights before and after the training, if recorded."""
        found = self.record.get("llm_digest") or {}
        return (str(found["before"]), str(found["after"])) if {"before", "after"} <= set(found) else None


@dataclass(frozen=True)
class JobResults:
    """All findings of one job."""

    manifest: Manifest
    prompts: Prompts
    choice_questions: dict[str, Rows]
    open_questions: dict[str, Rows]
    systems: list[SystemResults]
    targets: list[TargetResults] = field(default_factory=list)
    trainings: list[TrainingResults] = field(default_factory=list)
    text_skill: dict[str, dict[str, Interval]] = field(default_factory=dict)
    marks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
        """Names of the test splits, in the benchmark's order."""
        return list(self.choice_questions)

    @property
    def listed(self) -> list[SystemResults]:
        """Systems of the headline table: those that are no members of an ablation."""
        return [system for system in self.systems if system.runs.group is None]

    @property
    def main(self) -> SystemResults:
        """The system that the checks are about."""
        return self.find(self.manifest.main)

    def find(self, key: str) -> SystemResults:
        """The system of that key."""
        return next(system for system in self.systems if system.runs.key == key)

    def with_role(self, role: str) -> SystemResults | None:
        """The first system or control of that role."""
        return next((system for system in self.systems if system.runs.role == role), None)

    def ratio_to_oracle(self, system: SystemResults, split: str) -> Interval | None:
        """Multiple-choice accuracy over the text oracle's on the same questions, with a paired interval."""
        oracle = self.with_role("oracle")
        if oracle is None or not oracle.choice.get(split) or not system.choice.get(split):
            return None
        best = {verdict.key: verdict.right for verdict in oracle.choice[split]}
        both = [(verdict.right, best[verdict.key]) for verdict in system.choice[split] if verdict.key in best]
        if not any(right for _, right in both):
            return None
        return bootstrap_ratio([float(a) for a, _ in both], [float(b) for _, b in both])


def gather(manifest: Manifest) -> JobResults:
    """Read and score every run that the manifest names.

    Raises :class:`UserError` when a folder is missing or its answers do not belong to the questions.
    """
    prompts = load_prompts(manifest.prompts)
    choice_questions, open_questions = read_splits(manifest.choice_set), read_splits(manifest.open_set)
    return JobResults(
        manifest,
        prompts,
        choice_questions,
        open_questions,
        [_judge(runs, manifest, prompts, choice_questions, open_questions) for runs in manifest.systems],
        [_read_targets(target, prompts) for target in manifest.targets],
        [_read_training(run) for run in manifest.trainings],
        _read_text_skill(manifest),
        _read_marks(manifest.stages),
    )


def _judge(
    runs: SystemRuns,
    manifest: Manifest,
    prompts: Prompts,
    choice_questions: dict[str, Rows],
    open_questions: dict[str, Rows],
) -> SystemResults:
    choice_answers = _answers(runs.choice, choice_questions)
    open_answers = _answers(runs.open, open_questions)
    choice = {
        split: judge_choices(
            choice_questions[split], rows, where=f"{runs.choice} ({split})", partial=manifest.partial
        )
        for split, rows in choice_answers.items()
    }
    free = {
        split: judge_exact(open_questions[split], rows, where=f"{runs.open} ({split})", partial=manifest.partial)
        for split, rows in open_answers.items()
    }
    rows = [row for answers in (choice_answers, open_answers) for part in answers.values() for row in part]
    flags = [leaks_text_source(saved_response(row).thoughts, prompts) for row in rows]
    return SystemResults(runs, choice, free, _by_key(choice_answers), _by_key(open_answers), share(flags))


def _answers(folder: str | None, questions: dict[str, Rows]) -> dict[str, Rows]:
    """Saved answers of the splits that the questions have. Raises :class:`UserError` if a split is missing."""
    if folder is None:
        return {}
    saved = read_splits(folder)
    missing = [split for split in questions if split not in saved]
    if missing:
        raise UserError(f"{folder} has no answers to the split(s) {', '.join(missing)}; it has {', '.join(saved)}")
    return {split: saved[split] for split in questions}


def _by_key(answers: dict[str, Rows]) -> AnswersByKey:
    return {split: {row["dataset_index"]: row for row in rows} for split, rows in answers.items()}


def _read_targets(target: TargetSet, prompts: Prompts) -> TargetResults:
    """Rows that failed on the way (``status`` other than ok) are no targets and not counted."""
    rows = [row for part in read_splits(target.path).values() for row in part if row.get("status", "ok") == "ok"]
    texts = {row["dataset_index"]: str(row["llm_answer_with_context"]) for row in rows}
    flags = [leaks_text_source(split_response(text).thoughts, prompts) for text in texts.values()]
    return TargetResults(target, share(flags), texts, {row["dataset_index"]: row.get("prompt", "") for row in rows})


def _read_training(run: TrainingRun) -> TrainingResults:
    folder = Path(run.path)
    return TrainingResults(
        run, list(read_json_lines(folder / "metrics.jsonl", skip_broken=True)), read_record(folder)
    )


def _read_text_skill(manifest: Manifest) -> dict[str, dict[str, Interval]]:
    """``{"before": {task: share}, "after": ...}``, those that were measured."""
    found: dict[str, dict[str, Interval]] = {}
    if manifest.text_skill is None:
        return found
    for when, path in (("before", manifest.text_skill.before), ("after", manifest.text_skill.after)):
        record = _read_json(Path(path)) if path else None
        if record and isinstance(record.get("held_out"), dict):
            found[when] = {task: _from_share(value) for task, value in record["held_out"].items()}
    return found


def _from_share(value: dict[str, float]) -> Interval:
    count = int(value["n"])
    return share([place < round(value["exact"] * count) for place in range(count)])


def _score_of(verdicts: Verdicts, split: str | None) -> Score | None:
    chosen: Sequence[Verdict]
    chosen = verdicts.get(split, []) if split else [verdict for part in verdicts.values() for verdict in part]
    return score(chosen) if chosen else None


def read_splits(path: str | Path) -> dict[str, Rows]:
    """Rows of every split of a saved data set; audio stays encoded (``{"bytes", "path"}``).

    Raises :class:`UserError` if the folder holds no data set.
    """
    from datasets import Audio, Dataset, DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"no saved data set at {path}: {error}. Run the stage that makes it, or fix the path."
        ) from error
    splits = {"train": saved} if isinstance(saved, Dataset) else saved
    assert isinstance(splits, (dict, DatasetDict))
    rows: dict[str, Rows] = {}
    for name, data in splits.items():
        for column, feature in data.features.items():
            if isinstance(feature, Audio):
                data = data.cast_column(column, Audio(decode=False))
        roots, encoded = roots_of(data), [column for column, kind in data.features.items() if isinstance(kind, Audio)]
        rows[str(name)] = [
            {**row, **{column: stored_cell(row[column], roots) for column in encoded}} for row in data.to_list()
        ]
    return rows


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is missing or cannot be used."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _read_marks(folder: str | Path | None) -> list[dict[str, Any]]:
    """Marks of a job's stages in the job's order, those that are done."""
    if folder is None:
        return []
    marks = [mark for file in sorted(Path(folder).glob("*.json")) if (mark := _read_json(file)) and mark.get("done")]
    return sorted(marks, key=lambda mark: (mark.get("place", 0), mark.get("name", "")))
