"""The HTML page: findings put into the template, nothing loaded from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.benchmarks.choice import Score, chance_level
from src.report.charts import Series, line_chart
from src.report.clips import choose_clips, mark_betrayals
from src.report.evidence import Evidence, SystemEvidence, TrainingEvidence
from src.report.rows import Check, group_results
from src.report.templating import inline, page_environment

ROLE_TITLES = {
    "oracle": "reads the true description",
    "no_audio": "hears nothing",
    "wrong_audio": "hears another clip",
}
LOSS_KEYS = (("loss", "training loss", "train", False), ("eval_loss", "validation loss", "eval", True))


def render_page(evidence: Evidence, checks: Sequence[Check], record: Mapping[str, Any]) -> str:
    """The page as text. ``record`` is the run record shown at its end (versions, commit, command)."""
    template = page_environment().get_template("report.html.j2")
    return template.render(
        checks=checks,
        splits=evidence.splits,
        chance=_chance(evidence),
        headline=[_headline_row(evidence, system) for system in evidence.listed],
        main_title=evidence.main.runs.title,
        kinds={
            split: {"choice": _kind_table(evidence, split, False), "open": _kind_table(evidence, split, True)}
            for split in evidence.splits
        },
        statuses=[
            (system.runs.title, found.statuses) for system in evidence.listed if (found := system.choice_score())
        ],
        betrayal=_betrayal_rows(evidence),
        pair=_target_pair(evidence),
        digests=[(training.run.title, training.digests) for training in evidence.trainings],
        text_skill=evidence.text_skill,
        curves=[curve for training in evidence.trainings if (curve := _curve(training))["svg"]],
        groups=_groups(evidence),
        clips=choose_clips(evidence),
        stages=evidence.marks,
        total_seconds=sum(mark.get("seconds") or 0 for mark in evidence.marks),
        record=record,
        css=inline("report.css"),
        script=inline("report.js"),
    )


def _chance(evidence: Evidence) -> dict[str, float]:
    return {split: chance_level(rows) for split, rows in evidence.choice_questions.items()}


def _headline_row(evidence: Evidence, system: SystemEvidence) -> dict[str, Any]:
    choice = {split: system.choice_score(split) for split in evidence.splits}
    free = {split: system.open_score(split) for split in evidence.splits}
    return {
        "title": system.runs.title,
        "role": system.runs.role,
        "note": ROLE_TITLES.get(system.runs.role, ""),
        "is_main": system.runs.key == evidence.main.runs.key,
        "choice": {split: found.accuracy if found else None for split, found in choice.items()},
        "open": {split: found.accuracy if found else None for split, found in free.items()},
        "ratio": {split: evidence.ratio_to_oracle(system, split) for split in evidence.splits},
    }


def _kind_table(evidence: Evidence, split: str, is_open: bool) -> dict[str, Any]:
    scores: list[tuple[str, Score]] = []
    for system in evidence.listed:
        found = system.open_score(split) if is_open else system.choice_score(split)
        if found is not None:
            scores.append((system.runs.title, found))
    kinds = list(dict.fromkeys(kind for _, found in scores for kind in found.by_kind))
    counts = {kind: max((f.by_kind[kind].n for _, f in scores if kind in f.by_kind), default=0) for kind in kinds}
    return {"kinds": kinds, "counts": counts, "systems": [(title, found.by_kind) for title, found in scores]}


def _betrayal_rows(evidence: Evidence) -> list[dict[str, Any]]:
    rows = [
        {"title": target.target.title, "note": "training targets", "found": target.betraying}
        for target in evidence.targets
    ]
    return rows + [
        {
            "title": system.runs.title,
            "note": ROLE_TITLES.get(system.runs.role, "its answers"),
            "found": system.betraying,
        }
        for system in evidence.listed
        if system.betraying.n
    ]


def _target_pair(evidence: Evidence) -> dict[str, Any] | None:
    """One target before and after rephrasing, the first that both sets hold and that changed."""
    by_role = {target.target.role: target for target in evidence.targets}
    plain, rephrased = by_role.get("plain"), by_role.get("rephrased")
    if plain is None or rephrased is None:
        return None
    for key, text in sorted(plain.texts.items()):
        after = rephrased.texts.get(key)
        if after is not None and after != text:
            return {
                "prompt": plain.prompts.get(key, ""),
                "before": mark_betrayals(text, evidence.prompts),
                "after": mark_betrayals(after, evidence.prompts),
            }
    return None


def _curve(training: TrainingEvidence) -> dict[str, Any]:
    series = []
    for key, label, style, dots in LOSS_KEYS:
        points = [
            (float(record["step"]), float(record[key]))
            for record in training.curve
            if isinstance(record.get(key), (int, float)) and "step" in record
        ]
        series.append(Series(label, points, style, dots))
    last = {item.label: item.points[-1][1] for item in series if item.points}
    return {
        "title": training.run.title,
        "svg": line_chart(series, "step", f"Loss of {training.run.title}"),
        "last": last,
        "path": training.run.path,
    }


def _groups(evidence: Evidence) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for found in group_results(evidence):
        row = table.setdefault(found.group, {"title": found.group, "splits": {}})
        seeds = found.by_seed.values()
        row["splits"][found.split] = {
            "accuracy": found.accuracy, "seeds": len(found.by_seed), "least": min(seeds), "most": max(seeds)
        }  # fmt: skip
    return list(table.values())
