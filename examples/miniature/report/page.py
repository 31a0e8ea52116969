"""The HTML page: findings put into the template, nothing loaded from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.miniature.report.clips import choose_clips
from examples.miniature.report.results import JobResults, SystemResults, TrainingResults
from examples.miniature.report.rows import Check, group_results
from examples.miniature.report.scoring import Score, chance_level
from src.report.charts import Series, line_chart
from src.report.templating import inline, mark_leaks, page_environment

ROLE_TITLES = {
    "oracle": "reads the true description",
    "no_audio": "hears nothing",
    "wrong_audio": "hears another clip",
}
LOSS_KEYS = (("loss", "training loss", "train", False), ("eval_loss", "validation loss", "eval", True))


def render_page(results: JobResults, checks: Sequence[Check], record: Mapping[str, Any]) -> str:
    """The page as text. ``record`` is the run record shown at its end (versions, commit, command)."""
    template = page_environment(Path(__file__).parent / "templates").get_template("report.html.j2")
    return template.render(
        checks=checks,
        splits=results.splits,
        chance=_chance(results),
        headline=[_headline_row(results, system) for system in results.listed],
        main_title=results.main.runs.title,
        kinds={
            split: {"choice": _kind_table(results, split, False), "open": _kind_table(results, split, True)}
            for split in results.splits
        },
        statuses=[
            (system.runs.title, found.statuses) for system in results.listed if (found := system.choice_score())
        ],
        betrayal=_leak_rows(results),
        pair=_target_pair(results),
        digests=[(training.run.title, training.digests) for training in results.trainings],
        text_skill=results.text_skill,
        curves=[curve for training in results.trainings if (curve := _curve(training))["svg"]],
        groups=_groups(results),
        clips=choose_clips(results),
        stages=results.marks,
        total_seconds=sum(mark.get("seconds") or 0 for mark in results.marks),
        record=record,
        css=inline("report.css"),
        script=inline("report.js"),
    )


def _chance(results: JobResults) -> dict[str, float]:
    return {split: chance_level(rows) for split, rows in results.choice_questions.items()}


def _headline_row(results: JobResults, system: SystemResults) -> dict[str, Any]:
    choice = {split: system.choice_score(split) for split in results.splits}
    free = {split: system.open_score(split) for split in results.splits}
    return {
        "title": system.runs.title,
        "role": system.runs.role,
        "note": ROLE_TITLES.get(system.runs.role, ""),
        "is_main": system.runs.key == results.main.runs.key,
        "choice": {split: found.accuracy if found else None for split, found in choice.items()},
        "open": {split: found.accuracy if found else None for split, found in free.items()},
        "ratio": {split: results.ratio_to_oracle(system, split) for split in results.splits},
    }


def _kind_table(results: JobResults, split: str, is_open: bool) -> dict[str, Any]:
    scores: list[tuple[str, Score]] = []
    for system in results.listed:
        found = system.open_score(split) if is_open else system.choice_score(split)
        if found is not None:
            scores.append((system.runs.title, found))
    kinds = list(dict.fromkeys(kind for _, found in scores for kind in found.by_kind))
    counts = {kind: max((f.by_kind[kind].n for _, f in scores if kind in f.by_kind), default=0) for kind in kinds}
    return {"kinds": kinds, "counts": counts, "systems": [(title, found.by_kind) for title, found in scores]}


def _leak_rows(results: JobResults) -> list[dict[str, Any]]:
    rows = [
        {"title": target.target.title, "note": "training targets", "found": target.leaking}
        for target in results.targets
    ]
    return rows + [
        {
            "title": system.runs.title,
            "note": ROLE_TITLES.get(system.runs.role, "its answers"),
            "found": system.leaking,
        }
        for system in results.listed
        if system.leaking.n
    ]


def _target_pair(results: JobResults) -> dict[str, Any] | None:
    """One target before and after rephrasing, the first that both sets hold and that changed."""
    by_role = {target.target.role: target for target in results.targets}
    plain, rephrased = by_role.get("plain"), by_role.get("rephrased")
    if plain is None or rephrased is None:
        return None
    for key, text in sorted(plain.texts.items()):
        after = rephrased.texts.get(key)
        if after is not None and after != text:
            return {
                "prompt": plain.prompts.get(key, ""),
                "before": mark_leaks(text, results.prompts),
                "after": mark_leaks(after, results.prompts),
            }
    return None


def _curve(training: TrainingResults) -> dict[str, Any]:
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


def _groups(results: JobResults) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for found in group_results(results):
        row = table.setdefault(found.group, {"title": found.group, "splits": {}})
        seeds = found.by_seed.values()
        row["splits"][found.split] = {
            "accuracy": found.accuracy, "seeds": len(found.by_seed), "least": min(seeds), "most": max(seeds)
        }  # fmt: skip
    return list(table.values())
