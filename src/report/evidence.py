"""Everything the report states, computed from the saved runs: verdicts, betraying shares, frozen weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.benchmarks.choice import Score, Verdict, judge_choices, score
from src.benchmarks.exact import judge_exact, saved_response
from src.benchmarks.intervals import Interval, bootstrap_ratio, share
from src.common.errors import UserError
from src.prompts.betrayal import betrays
from src.prompts.texts import Prompts, load_prompts
from src.prompts.thoughts import split_response
from src.report.load import Rows, read_json, read_lines, read_marks, read_splits
from src.report.manifest import Manifest, SystemRuns, TargetSet, TrainingRun

Verdicts = dict[str, list[Verdict]]
AnswersByKey = dict[str, dict[int, dict[str, Any]]]


@dataclass(frozen=True)
class SystemEvidence:
    """One system's verdicts and saved answers, by split; ``betraying`` over the thoughts of all its answers."""

    runs: SystemRuns
    choice: Verdicts
    open: Verdicts
    choice_answers: AnswersByKey
    open_answers: AnswersByKey
    betraying: Interval

    def choice_score(self, split: str | None = None) -> Score | None:
        """Multiple-choice score of a split, of all splits together with None; None if nothing was answered."""
        return _score_of(self.choice, split)

    def open_score(self, split: str | None = None) -> Score | None:
        """Exact-answer score of a split, of all splits together with None; None if nothing was answered."""
        return _score_of(self.open, split)


@dataclass(frozen=True)
class TargetEvidence:
    """A folder of training targets: how many betray text, and the targets by ``dataset_index``."""

    target: TargetSet
    betraying: Interval
    texts: dict[int, str]
    prompts: dict[int, str]


@dataclass(frozen=True)
class TrainingEvidence:
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
class Evidence:
    """All findings of one job."""

    manifest: Manifest
    prompts: Prompts
    choice_questions: dict[str, Rows]
    open_questions: dict[str, Rows]
    systems: list[SystemEvidence]
    targets: list[TargetEvidence] = field(default_factory=list)
    trainings: list[TrainingEvidence] = field(default_factory=list)
    text_skill: dict[str, dict[str, Interval]] = field(default_factory=dict)
    marks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
        """Names of the test splits, in the benchmark's order."""
        return list(self.choice_questions)

    @property
    def listed(self) -> list[SystemEvidence]:
        """Systems of the headline table: those that are no members of an ablation."""
        return [system for system in self.systems if system.runs.group is None]

    @property
    def main(self) -> SystemEvidence:
        """The system that the checks are about."""
        return self.find(self.manifest.main)

    def find(self, key: str) -> SystemEvidence:
        """The system of that key."""
        return next(system for system in self.systems if system.runs.key == key)

    def with_role(self, role: str) -> SystemEvidence | None:
        """The first system or control of that role."""
        return next((system for system in self.systems if system.runs.role == role), None)

    def ratio_to_oracle(self, system: SystemEvidence, split: str) -> Interval | None:
        """Multiple-choice accuracy over the text oracle's on the same questions, with a paired interval."""
        oracle = self.with_role("oracle")
        if oracle is None or not oracle.choice.get(split) or not system.choice.get(split):
            return None
        best = {verdict.key: verdict.right for verdict in oracle.choice[split]}
        both = [(verdict.right, best[verdict.key]) for verdict in system.choice[split] if verdict.key in best]
        if not any(right for _, right in both):
            return None
        return bootstrap_ratio([float(a) for a, _ in both], [float(b) for _, b in both])


def gather(manifest: Manifest) -> Evidence:
    """Read and score every run that the manifest names.

    Raises :class:`UserError` when a folder is missing or its answers do not belong to the questions.
    """
    prompts = load_prompts(manifest.prompts)
    choice_questions, open_questions = read_splits(manifest.choice_set), read_splits(manifest.open_set)
    return Evidence(
        manifest,
        prompts,
        choice_questions,
        open_questions,
        [_judge(runs, manifest, prompts, choice_questions, open_questions) for runs in manifest.systems],
        [_read_targets(target, prompts) for target in manifest.targets],
        [_read_training(run) for run in manifest.trainings],
        _read_text_skill(manifest),
        read_marks(manifest.stages),
    )


def _judge(
    runs: SystemRuns,
    manifest: Manifest,
    prompts: Prompts,
    choice_questions: dict[str, Rows],
    open_questions: dict[str, Rows],
) -> SystemEvidence:
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
    flags = [betrays(saved_response(row).thoughts, prompts) for row in rows]
    return SystemEvidence(runs, choice, free, _by_key(choice_answers), _by_key(open_answers), share(flags))


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


def _read_targets(target: TargetSet, prompts: Prompts) -> TargetEvidence:
    """Rows that failed on the way (``status`` other than ok) are no targets and not counted."""
    rows = [row for part in read_splits(target.path).values() for row in part if row.get("status", "ok") == "ok"]
    texts = {row["dataset_index"]: str(row["llm_answer_with_context"]) for row in rows}
    flags = [betrays(split_response(text).thoughts, prompts) for text in texts.values()]
    return TargetEvidence(target, share(flags), texts, {row["dataset_index"]: row.get("prompt", "") for row in rows})


def _read_training(run: TrainingRun) -> TrainingEvidence:
    folder = Path(run.path)
    return TrainingEvidence(run, read_lines(folder / "metrics.jsonl"), read_json(folder / "run.json") or {})


def _read_text_skill(manifest: Manifest) -> dict[str, dict[str, Interval]]:
    """``{"before": {task: share}, "after": ...}``, those that were measured."""
    found: dict[str, dict[str, Interval]] = {}
    if manifest.text_skill is None:
        return found
    for when, path in (("before", manifest.text_skill.before), ("after", manifest.text_skill.after)):
        record = read_json(Path(path)) if path else None
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
