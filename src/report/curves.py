"""Curves of training runs, finished, running or stopped, on one page that needs no other file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.existing import RECORD, read_record
from src.common.files import read_json_lines, write_text
from src.common.run_record import read_starts
from src.prompts.reasoning import Reasoning, split_response
from src.report.charts import Point, Series, line_chart
from src.report.templating import fill_page, folder_names, run_style, seconds_text

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
MOST_POINTS = 400
"""Points of a curve at most: longer ones are averaged over neighbouring lines."""
TRAIN_TITLES = {
    "loss": "Training loss",
    "learning_rate": "Learning rate",
    "clips_per_second": "Clips per second",
    "grad_norm": "Gradient norm",
    "rows_replaced": "Rows replaced, so far",
}
SCORES = {
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR",
    "bertscore": "BERTScore",
}
_FROM_ZERO = {"clips_per_second", "rows_replaced", "learning_rate"}
_NO_CURVE = {"step", "epoch", "train_loss"}


@dataclass(frozen=True)
class RunLog:
    """Contents of a run's folder: metric lines in order, the newest answers, the record (until the end that of the
    last start)."""

    name: str
    folder: Path
    lines: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    record: dict[str, Any]
    finished: bool


def write_curves(folders: Sequence[Path], out: Path) -> None:
    """Draw the curves of the runs in ``folders`` over each other; ``out`` is written atomically.

    Raises :class:`UserError` for a folder without ``metrics.jsonl``.
    """
    runs = [_read_run(folder, name) for folder, name in zip(folders, folder_names(folders), strict=True)]
    page = fill_page(
        "curves.html.j2",
        ("report.css", "curves.css"),
        ("report.js",),
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=[_facts(run, place) for place, run in enumerate(runs)],
        sections=[section for section in _sections(runs) if section["charts"]],
        samples=[(run.name, [_sample(line) for line in run.samples]) for run in runs if run.samples],
    )
    write_text(out, page)


def _read_run(folder: Path, name: str) -> RunLog:
    metrics, end = folder / METRICS, folder / RECORD
    if not metrics.is_file():
        raise UserError(f"{folder}: no {METRICS} there; give the output folder of a training run")
    samples = list(read_json_lines(folder / SAMPLES, skip_broken=True))
    last = samples[-1].get("step") if samples else None
    # a run that is resumed writes metrics again after the record of its first end
    finished = end.is_file() and end.stat().st_mtime >= metrics.stat().st_mtime
    newest = [line for line in samples if line.get("step") == last]
    lines = [line for line in read_json_lines(metrics, skip_broken=True) if "step" in line]
    record = read_record(folder) if finished else next(reversed(read_starts(folder)), {})
    return RunLog(name, folder, lines, newest, record, finished)


def _facts(run: RunLog, place: int) -> dict[str, Any]:
    config = run.record.get("config") or {}
    seconds = (run.record.get("seconds") or {}).get("run")
    metrics = {"loss": "loss", "eval_loss": "eval_loss", "replaced": "rows_replaced"}
    series = {name: [y for _, y in _points(run, metric)] for name, metric in metrics.items()}
    dataset, llm = (config.get("dataset") or {}).get("name"), (config.get("model") or {}).get("llm")
    return {
        "name": run.name,
        "style": run_style(place),
        "state": "finished" if run.finished else "running, or stopped before its end",
        "step": run.lines[-1]["step"] if run.lines else 0,
        "epoch": run.lines[-1].get("epoch") if run.lines else None,
        **{name: values[-1] if values else None for name, values in series.items()},
        "best": min(series["eval_loss"], default=None),
        "took": None if seconds is None else seconds_text(seconds),
        "about": ", ".join(str(text) for text in (dataset, llm) if text),
    }


def _sections(runs: Sequence[RunLog]) -> list[dict[str, Any]]:
    """Charts in sections; a section or chart that has nothing to show is left out."""
    keys = _curve_keys(runs)
    train = list(TRAIN_TITLES) + [key for key in keys if not key.startswith("eval_") and key not in TRAIN_TITLES]
    scored = {key: match for key in keys if (match := re.fullmatch(rf"eval_(.+)_({'|'.join(SCORES)})", key))}
    losses = [key for key in keys if key.startswith("eval_") and key.endswith("_loss")]
    groups = [key for key in losses if key.endswith("_group_loss")]
    sets = [key for key in losses if key not in groups and key != "eval_loss"]
    return [
        _section(runs, "training", "Training", {key: TRAIN_TITLES.get(key, key) for key in train}, dots=False),
        _section(
            runs,
            "evaluation",
            "Evaluation loss, mean and by group",
            {"eval_loss": "All sets"} | {key: key[len("eval_") : -len("_group_loss")] for key in groups},
        ),
        _section(runs, "sets", "Evaluation loss by set", {key: key[len("eval_") : -len("_loss")] for key in sets}),
        _section(
            runs,
            "texts",
            "Sample answers against their targets",
            {
                key: f"{SCORES[match[2]]}, {match[1].replace('_', ' ')}"
                for key, match in sorted(scored.items(), key=lambda item: list(SCORES).index(item[1][2]))
            },
        ),
    ]


def _curve_keys(runs: Sequence[RunLog]) -> list[str]:
    """Every metric that is a number, in order of appearance; token counts of evaluation sets say nothing new."""
    found: dict[str, None] = {}
    for run in runs:
        for line in run.lines:
            found |= dict.fromkeys(key for key, value in line.items() if isinstance(value, (int, float)))
    return [key for key in found if key not in _NO_CURVE and not re.fullmatch(r"eval_.+_tokens", key)]


def _section(
    runs: Sequence[RunLog], anchor: str, title: str, keys: Mapping[str, str], dots: bool = True
) -> dict[str, Any]:
    charts = [chart for key, label in keys.items() if (chart := _chart(runs, key, label, dots)) is not None]
    return {"anchor": anchor, "title": title, "charts": charts}


def _chart(runs: Sequence[RunLog], key: str, title: str, dots: bool) -> dict[str, Any] | None:
    curves = [(place, run.name, _points(run, key)) for place, run in enumerate(runs)]
    if not any(points for _, _, points in curves):
        return None
    series = [
        Series(name, thin(points), run_style(place), dots or len(points) == 1) for place, name, points in curves
    ]
    last = [{"style": run_style(place), "value": points[-1][1]} for place, _, points in curves if points]
    return {
        "title": title,
        "last": last,
        "svg": line_chart(series, "step", title, "zero" if key in _FROM_ZERO else "near"),
    }


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points: means of neighbours of equal number, the last group possibly shorter."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    # means, not every n-th point, which may hide a spike
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _points(run: RunLog, key: str) -> list[Point]:
    """``(step, value)`` of all finite values of a metric."""
    found = [(float(line["step"]), line[key]) for line in run.lines if isinstance(line.get(key), (int, float))]
    return [(step, float(value)) for step, value in found if math.isfinite(value)]


def _sample(line: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = Reasoning.of_record(line)
    return {
        "step": line.get("step"),
        "where": f"{line.get('set', '')} · {line.get('key', '')}",
        "prompt": str(line.get("prompt", "")),
        "target": split_response(str(line.get("target", "")), reasoning),
        "answer": split_response(str(line.get("answer", "")), reasoning),
    }
