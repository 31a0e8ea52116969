"""Findings as rows of ``results.json``, and the checks that the job must pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from src.benchmarks.choice import chance_level
from src.benchmarks.intervals import Interval, bootstrap_mean
from src.report.evidence import Evidence, SystemEvidence

LIMITS = {"known": 0.90, "unseen": 0.75}
"""Least multiple-choice accuracy of the main system, as a share of the text oracle's, by split."""
REPHRASED_AT_MOST, PLAIN_AT_LEAST = 0.05, 0.50


@dataclass(frozen=True)
class ResultRow:
    """One measured number; ``low`` and ``high`` are the ends of its 95 % interval."""

    system: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, system: str, metric: str, interval: Interval) -> ResultRow:
        """A row of an interval."""
        return cls(system, metric, interval.value, interval.low, interval.high, interval.n)


@dataclass(frozen=True)
class Check:
    """Something that must hold; ``passed`` is None when it was not measured."""

    name: str
    passed: bool | None
    found: str


@dataclass(frozen=True)
class GroupResult:
    """An ablation: mean over seeds on one split, items resampled; ``by_seed`` the accuracy of each seed."""

    group: str
    split: str
    accuracy: Interval
    by_seed: dict[int, float]


def result_rows(evidence: Evidence) -> list[ResultRow]:
    """All rows of ``results.json``."""
    rows: list[ResultRow] = []
    for split, questions in evidence.choice_questions.items():
        level = chance_level(questions)
        rows.append(ResultRow("chance", f"choice_accuracy/{split}", level, level, level, len(questions)))
    for system in evidence.systems:
        rows.extend(_system_rows(evidence, system))
    for target in evidence.targets:
        rows.append(ResultRow.of(target.target.title, "betraying_share", target.betraying))
    for when, tasks in evidence.text_skill.items():
        rows.extend(ResultRow.of("language model", f"text/{task}/{when}", found) for task, found in tasks.items())
    for group in group_results(evidence):
        rows.append(ResultRow.of(group.group, f"choice_accuracy_over_seeds/{group.split}", group.accuracy))
    return rows


def _system_rows(evidence: Evidence, system: SystemEvidence) -> Iterator[ResultRow]:
    title = system.runs.title
    for split in evidence.splits:
        for metric, found in (
            ("choice_accuracy", system.choice_score(split)),
            ("open_accuracy", system.open_score(split)),
        ):
            if found is not None:
                yield ResultRow.of(title, f"{metric}/{split}", found.accuracy)
                for kind, interval in found.by_kind.items():
                    yield ResultRow.of(title, f"{metric}/{split}/{kind}", interval)
        ratio = evidence.ratio_to_oracle(system, split)
        if ratio is not None:
            yield ResultRow.of(title, f"choice_ratio_to_oracle/{split}", ratio)
    if system.betraying.n:
        yield ResultRow.of(title, "betraying_share", system.betraying)
    answered = system.choice_score()
    if answered is not None and answered.unread is not None:
        yield ResultRow.of(title, "choice_unread", answered.unread)


def group_results(evidence: Evidence) -> list[GroupResult]:
    """Ablations: for every group and split the mean over its seeds, in the manifest's order."""
    groups: dict[str, list[SystemEvidence]] = {}
    for system in evidence.systems:
        if system.runs.group is not None:
            groups.setdefault(system.runs.group, []).append(system)
    results = []
    for group, members in groups.items():
        for split in evidence.splits:
            flags = [[float(verdict.right) for verdict in member.choice.get(split, [])] for member in members]
            if not flags or not flags[0] or len({len(row) for row in flags}) != 1:
                continue
            by_item = np.mean(flags, axis=0).tolist()
            seeds = {member.runs.seed or 0: float(np.mean(row)) for member, row in zip(members, flags, strict=True)}
            results.append(GroupResult(group, split, bootstrap_mean(by_item), seeds))
    return results


def job_checks(evidence: Evidence) -> list[Check]:
    """What the job must show, with what was found."""
    return [
        *(_oracle_check(evidence, split, limit) for split, limit in LIMITS.items() if split in evidence.splits),
        _chance_check(evidence, "no_audio", "Without audio: chance lies within the interval"),
        _chance_check(evidence, "wrong_audio", "With another clip's audio: no better than chance"),
        *_betrayal_checks(evidence),
        _digest_check(evidence),
        _text_skill_check(evidence),
    ]


def _oracle_check(evidence: Evidence, split: str, limit: float) -> Check:
    name = f"{evidence.main.runs.title}, {split} recordings: at least {limit:.0%} of the text oracle's accuracy"
    ratio = evidence.ratio_to_oracle(evidence.main, split)
    return Check(name, None, "not measured") if ratio is None else Check(name, ratio.value >= limit, show(ratio))


def _chance_check(evidence: Evidence, role: str, name: str) -> Check:
    control = evidence.with_role(role)
    found = control.choice_score() if control else None
    if found is None:
        return Check(name, None, "not measured")
    level = chance_level(row for rows in evidence.choice_questions.values() for row in rows)
    accuracy = found.accuracy
    passed = accuracy.holds(level) if role == "no_audio" else accuracy.low <= level
    return Check(name, passed, f"{show(accuracy)}; chance {level:.1%}")


def _betrayal_checks(evidence: Evidence) -> Iterator[Check]:
    for role, text in (
        ("plain", f"Targets as generated betray a text reader in more than {PLAIN_AT_LEAST:.0%}"),
        ("rephrased", f"Rephrased targets betray one in less than {REPHRASED_AT_MOST:.0%}"),
    ):
        found = next((target.betraying for target in evidence.targets if target.target.role == role), None)
        if found is None:
            yield Check(text, None, "not measured")
        else:
            good = found.value > PLAIN_AT_LEAST if role == "plain" else found.value < REPHRASED_AT_MOST
            yield Check(text, good, show(found))


def _digest_check(evidence: Evidence) -> Check:
    name = "The language model's weights are bit-identical before and after every training"
    digests = [training.digests for training in evidence.trainings]
    known = [pair for pair in digests if pair is not None]
    if not known or len(known) < len(digests):
        return Check(name, None, f"recorded for {len(known)} of {len(digests)} trainings")
    distinct = {digest for pair in known for digest in pair}
    found = f"SHA-256 {sorted(distinct)[0][:16]}…, {len(known)} trainings" if len(distinct) == 1 else "weights differ"
    return Check(name, len(distinct) == 1, found)


def _text_skill_check(evidence: Evidence) -> Check:
    name = "The language model's skill on text alone is unchanged"
    before, after = evidence.text_skill.get("before"), evidence.text_skill.get("after")
    shared = [task for task in before or {} if task in (after or {})]
    if not before or not after or not shared:
        return Check(name, None, "not measured")
    changed = [task for task in shared if not before[task].holds(after[task].value)]
    listed = [f"{task} {before[task].value:.1%} before, {after[task].value:.1%} after" for task in changed or shared]
    found = "; ".join(listed[:3])
    return Check(name, not changed, found)


def show(interval: Interval) -> str:
    """``92.5 % (89.1–95.0, n 200)``."""
    return f"{interval.value:.1%} ({interval.low * 100:.1f}–{interval.high * 100:.1f}, n {interval.n})"
