"""Results as rows of ``results.json``, and the checks that the job must pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from examples.miniature.report.results import JobResults, SystemResults
from examples.miniature.report.scoring import bootstrap_mean, chance_level
from src.benchmarks.intervals import Interval

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


def result_rows(results: JobResults) -> list[ResultRow]:
    """All rows of ``results.json``."""
    rows: list[ResultRow] = []
    for split, questions in results.choice_questions.items():
        level = chance_level(questions)
        rows.append(ResultRow("chance", f"choice_accuracy/{split}", level, level, level, len(questions)))
    for system in results.systems:
        rows.extend(_system_rows(results, system))
    for target in results.targets:
        rows.append(ResultRow.of(target.target.title, "betraying_share", target.leaking))
    for when, tasks in results.text_skill.items():
        rows.extend(ResultRow.of("language model", f"text/{task}/{when}", found) for task, found in tasks.items())
    for group in group_results(results):
        rows.append(ResultRow.of(group.group, f"choice_accuracy_over_seeds/{group.split}", group.accuracy))
    return rows


def _system_rows(results: JobResults, system: SystemResults) -> Iterator[ResultRow]:
    title = system.runs.title
    for split in results.splits:
        for metric, found in (
            ("choice_accuracy", system.choice_score(split)),
            ("open_accuracy", system.open_score(split)),
        ):
            if found is not None:
                yield ResultRow.of(title, f"{metric}/{split}", found.accuracy)
                for kind, interval in found.by_kind.items():
                    yield ResultRow.of(title, f"{metric}/{split}/{kind}", interval)
        ratio = results.ratio_to_oracle(system, split)
        if ratio is not None:
            yield ResultRow.of(title, f"choice_ratio_to_oracle/{split}", ratio)
    if system.leaking.n:
        yield ResultRow.of(title, "betraying_share", system.leaking)
    answered = system.choice_score()
    if answered is not None and answered.unparsed is not None:
        yield ResultRow.of(title, "choice_unread", answered.unparsed)


def group_results(results: JobResults) -> list[GroupResult]:
    """Ablations: for every group and split the mean over its seeds, in the manifest's order."""
    groups: dict[str, list[SystemResults]] = {}
    for system in results.systems:
        if system.runs.group is not None:
            groups.setdefault(system.runs.group, []).append(system)
    rows = []
    for group, members in groups.items():
        for split in results.splits:
            flags = [[float(verdict.right) for verdict in member.choice.get(split, [])] for member in members]
            if not flags or not flags[0] or len({len(own) for own in flags}) != 1:
                continue
            by_item = np.mean(flags, axis=0).tolist()
            seeds = {member.runs.seed or 0: float(np.mean(own)) for member, own in zip(members, flags, strict=True)}
            rows.append(GroupResult(group, split, bootstrap_mean(by_item), seeds))
    return rows


def job_checks(results: JobResults) -> list[Check]:
    """Requirements on the job's results, each with the measured value."""
    return [
        *(_oracle_check(results, split, limit) for split, limit in LIMITS.items() if split in results.splits),
        _chance_check(results, "no_audio", "Without audio: chance lies within the interval"),
        _chance_check(results, "wrong_audio", "With another clip's audio: no better than chance"),
        *_leak_checks(results),
        _digest_check(results),
        _text_skill_check(results),
    ]


def _oracle_check(results: JobResults, split: str, limit: float) -> Check:
    name = f"{results.main.runs.title}, {split} recordings: at least {limit:.0%} of the text oracle's accuracy"
    ratio = results.ratio_to_oracle(results.main, split)
    return Check(name, None, "not measured") if ratio is None else Check(name, ratio.value >= limit, show(ratio))


def _chance_check(results: JobResults, role: str, name: str) -> Check:
    control = results.with_role(role)
    found = control.choice_score() if control else None
    if found is None:
        return Check(name, None, "not measured")
    level = chance_level(row for rows in results.choice_questions.values() for row in rows)
    accuracy = found.accuracy
    passed = accuracy.contains(level) if role == "no_audio" else accuracy.low <= level
    return Check(name, passed, f"{show(accuracy)}; chance {level:.1%}")


def _leak_checks(results: JobResults) -> Iterator[Check]:
    for role, text in (
        ("plain", f"Targets as generated betray a text reader in more than {PLAIN_AT_LEAST:.0%}"),
        ("rephrased", f"Rephrased targets betray one in less than {REPHRASED_AT_MOST:.0%}"),
    ):
        found = next((target.leaking for target in results.targets if target.target.role == role), None)
        if found is None:
            yield Check(text, None, "not measured")
        else:
            good = found.value > PLAIN_AT_LEAST if role == "plain" else found.value < REPHRASED_AT_MOST
            yield Check(text, good, show(found))


def _digest_check(results: JobResults) -> Check:
    name = "The language model's weights are bit-identical before and after every training"
    digests = [training.digests for training in results.trainings]
    known = [pair for pair in digests if pair is not None]
    if not known or len(known) < len(digests):
        return Check(name, None, f"recorded for {len(known)} of {len(digests)} trainings")
    distinct = {digest for pair in known for digest in pair}
    found = f"SHA-256 {sorted(distinct)[0][:16]}…, {len(known)} trainings" if len(distinct) == 1 else "weights differ"
    return Check(name, len(distinct) == 1, found)


def _text_skill_check(results: JobResults) -> Check:
    name = "The language model's skill on text alone is unchanged"
    before, after = results.text_skill.get("before"), results.text_skill.get("after")
    shared = [task for task in before or {} if task in (after or {})]
    if not before or not after or not shared:
        return Check(name, None, "not measured")
    changed = [task for task in shared if not before[task].contains(after[task].value)]
    listed = [f"{task} {before[task].value:.1%} before, {after[task].value:.1%} after" for task in changed or shared]
    found = "; ".join(listed[:3])
    return Check(name, not changed, found)


def show(interval: Interval) -> str:
    """``92.5 % (89.1–95.0, n 200)``."""
    return f"{interval.value:.1%} ({interval.low * 100:.1f}–{interval.high * 100:.1f}, n {interval.n})"
