"""One page over any number of benchmark runs: scores with intervals, groups, pairs, lengths, single questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from src.benchmarks.anchors import anchors
from src.benchmarks.bootstrap import ROUNDS
from src.benchmarks.intervals import Interval
from src.common.run_record import write_text
from src.prompts.choice import origin_of_run
from src.report.benchmark_questions import choose_questions
from src.report.benchmark_runs import RunSplit, Test, read_tests
from src.report.charts import Series, line_chart
from src.report.templating import inline, page_environment

STYLES = 8
MOST_BARS = 12
"""Groups that are drawn as bars; groupings with more are tables."""
BINS = 24


@dataclass(frozen=True)
class PageOptions:
    """How much a page holds: questions of each split, megabytes of clips in all, bootstrap rounds."""

    questions: int = 40
    audio_mb: float = 30.0
    rounds: int = ROUNDS


def write_page(folders: Sequence[Path], out: Path, options: PageOptions | None = None) -> None:
    """Score the runs in ``folders`` and write the page, whole or not at all.

    Raises :class:`~src.common.errors.UserError` for a folder that is no run over a data set with known answers.
    """
    options = options or PageOptions()
    tests = read_tests(folders, options.rounds)
    room = int(options.audio_mb * 1e6)
    sections = []
    for test in tests:
        questions, used = choose_questions(test, options.questions, room)
        room -= used
        sections.append(_section(test) | {"questions": questions})
    page = (
        page_environment()
        .get_template("benchmarks.html.j2")
        .render(
            sections=sections,
            written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            rounds=options.rounds,
            css=inline("report.css") + inline("curves.css") + inline("benchmarks.css"),
            script=inline("report.js") + inline("benchmarks.js"),
        )
    )
    write_text(out, page)


def _section(test: Test) -> dict[str, Any]:
    return {
        "test": test,
        "title": f"{test.spec.title}, {test.split}",
        "styles": [f"run{number % STYLES}" for number in range(len(test.runs))],
        "rows": [_row(run) for run in test.runs],
        "averages": list(test.runs[0].scores.averages),
        "groupings": [_grouping(test, grouping.name) for grouping in test.spec.groupings],
        "pairs": _pairs(test),
        "anchors": anchors(test.spec.name, test.split),
        "other_prompts": _other_prompts(test),
        "lengths": _length_chart(test),
        "statuses": [run.scores.statuses for run in test.runs],
    }


def _row(run: RunSplit) -> dict[str, Any]:
    config = run.record.get("config") or {}
    asked = {key: config.get(key) for key in ("seed", "options_seed", "greedy", "answer_fallback", "audio_input")}
    about = [f"{key} {value}" for key, value in asked.items() if value not in (None, False)]
    return {
        "run": run,
        "about": ", ".join([*about, f"prompts {origin_of_run(run.record)}"]),
        "rules": [(named.title, named.ruling.published) for named in run.scores.rulings],
    }


def _other_prompts(test: Test) -> list[str]:
    """Prompt sets of the runs that are not the published one, each once."""
    origins = (origin_of_run(run.record) for run in test.runs)
    return list(dict.fromkeys(f"{origin.name} ({origin.source})" for origin in origins if not origin.published))


def _grouping(test: Test, name: str) -> dict[str, Any]:
    labels = list(dict.fromkeys(label for run in test.runs for label in run.scores.groups[name]))
    nothing = Interval(float("nan"), 0.0, 1.0, 0)
    found: list[dict[str, Any]] = [
        {"label": label, "values": [run.scores.groups[name].get(label, nothing) for run in test.runs]}
        for label in labels
    ]
    shown = [row for row in found if any(value.n for value in row["values"])]
    return {"name": name, "rows": shown, "bars": len(shown) <= MOST_BARS}


def _pairs(test: Test) -> list[dict[str, Any]]:
    pairs = []
    for first, second in combinations(range(len(test.runs)), 2):
        found = test.compare(test.runs[first], test.runs[second])
        if found is not None:
            pairs.append({"first": first, "second": second, "found": found})
    return pairs


def _length_chart(test: Test) -> Markup | None:
    """Shares of replies by their number of tokens, one line for each run."""
    longest = max((max(run.tokens, default=0) for run in test.runs), default=0)
    if not longest:
        return None
    width = max(1, -(-(longest + 1) // BINS))
    series = []
    for number, run in enumerate(test.runs):
        counts = [0] * (longest // width + 1)
        for tokens in run.tokens:
            counts[tokens // width] += 1
        points = [((place + 0.5) * width, count / max(1, len(run.tokens))) for place, count in enumerate(counts)]
        series.append(Series(run.name, points, f"run{number % STYLES}"))
    return line_chart(series, "tokens of a reply", f"Lengths of replies, {test.spec.title}")
