"""One page over any number of benchmark runs: scores with intervals, groups, pairs, lengths, single questions."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from src.audio.roots import roots_of, stored_cell
from src.benchmarks.intervals import ROUNDS, UNKNOWN
from src.benchmarks.leaderboards import published_scores
from src.benchmarks.scoring import is_unparsed
from src.common.errors import UserError
from src.common.files import write_text
from src.common.log import get_logger
from src.prompts.multiple_choice import READ_STATUSES
from src.prompts.prompt_sets import origin_of_run
from src.prompts.reasoning import FORMATS
from src.report.benchmark_runs import RunSplit, SplitRuns, read_runs
from src.report.charts import Series, line_chart
from src.report.spectrogram import data_uri, read_encoded
from src.report.templating import fill_page, run_style

log = get_logger(__name__)
MOST_BARS = 12
"""Groups that are drawn as bars; groupings with more are tables."""
BINS = 24
SEED = 7
_END_OF_THOUGHTS = "|".join(sorted({re.escape(form.closing) for form in FORMATS.values() if form.closing}))


def write_page(
    folders: Sequence[Path], out: Path, questions: int = 40, audio_mb: float = 30.0, rounds: int = ROUNDS
) -> None:
    """Score the runs in ``folders`` and write the page atomically.

    Args:
        questions: single questions of each split.
        audio_mb: room for their clips in all, in megabytes.
        rounds: of the bootstrap.

    Raises :class:`~src.common.errors.UserError` for a folder that is no run over a data set with known answers.
    """
    room = int(audio_mb * 1e6)
    sections = []
    for split in read_runs(folders, rounds):
        chosen, used = choose_questions(split, questions, room)
        room -= used
        sections.append(_section(split) | {"questions": chosen})
    page = fill_page(
        "benchmarks.html.j2",
        ("report.css", "curves.css", "benchmarks.css"),
        ("report.js", "benchmarks.js"),
        sections=sections,
        parsed=READ_STATUSES,
        rounds=rounds,
    )
    write_text(out, page)


def _section(split: SplitRuns) -> dict[str, Any]:
    origins = [origin_of_run(run.record) for run in split.runs]
    others = [f"{origin.name} ({origin.source})" for origin in origins if not origin.published]
    return {
        "split": split,
        "title": f"{split.spec.title}, {split.split}",
        "styles": [run_style(number) for number in range(len(split.runs))],
        "rows": [_run_row(run) for run in split.runs],
        "averages": list(split.runs[0].scores.averages),
        "groupings": [_grouping(split, grouping.name) for grouping in split.spec.groupings],
        "pairs": [
            {"first": first, "second": second, "found": found}
            for first, second in combinations(range(len(split.runs)), 2)
            if (found := split.compare(split.runs[first], split.runs[second])) is not None
        ],
        "published": (published := published_scores(split.spec.name, split.split)),
        "published_groups": list(dict.fromkeys(name for score in published for name in score.groups)),
        "other_prompts": list(dict.fromkeys(others)),
        "lengths": _length_chart(split),
        "statuses": [run.scores.statuses for run in split.runs],
    }


def _run_row(run: RunSplit) -> dict[str, Any]:
    config = run.record.get("config") or {}
    asked = {key: config.get(key) for key in ("seed", "options_seed", "greedy", "answer_fallback", "audio_input")}
    about = [f"{key} {value}" for key, value in asked.items() if value not in (None, False)]
    return {
        "run": run,
        "about": ", ".join([*about, f"prompts {origin_of_run(run.record)}"]),
        "rules": [(named.title, named.result.published) for named in run.scores.rules],
    }


def _grouping(split: SplitRuns, name: str) -> dict[str, Any]:
    labels = list(dict.fromkeys(label for run in split.runs for label in run.scores.groups[name]))
    rows: list[dict[str, Any]] = [
        {"label": label, "values": [run.scores.groups[name].get(label, UNKNOWN) for run in split.runs]}
        for label in labels
    ]
    shown = [row for row in rows if any(value.n for value in row["values"])]
    return {"name": name, "rows": shown, "bars": len(shown) <= MOST_BARS}


def _length_chart(split: SplitRuns) -> Markup | None:
    """Shares of replies by their number of tokens, one line for each run."""
    longest = max((max(run.tokens, default=0) for run in split.runs), default=0)
    if not longest:
        return None
    width = -(-(longest + 1) // BINS)
    series = []
    for number, run in enumerate(split.runs):
        counts = [0] * (longest // width + 1)
        for tokens in run.tokens:
            counts[tokens // width] += 1
        points = [((place + 0.5) * width, count / max(1, len(run.tokens))) for place, count in enumerate(counts)]
        series.append(Series(run.name, points, run_style(number)))
    return line_chart(series, "tokens of a reply", f"Lengths of replies, {split.spec.title}")


@dataclass(frozen=True)
class RunReply:
    """Answer of one run to a question."""

    run: int
    thoughts: str
    answer: str
    verdict: str
    status: str
    tokens: int | None
    budget_hit: bool


@dataclass(frozen=True)
class ShownQuestion:
    """One question; ``audio`` is a data URI, empty if the clip is too large for the page or cannot be read.

    ``marks`` are the words of the page's filters: wrong, unparsed, budget, differs.
    """

    row_id: str
    text: str
    options: tuple[str, ...]
    gold: str
    labels: tuple[str, ...]
    audio: str
    no_audio: str
    marks: tuple[str, ...]
    replies: tuple[RunReply, ...]


def choose_questions(split: SplitRuns, count: int, budget: int) -> tuple[list[ShownQuestion], int]:
    """Up to ``count`` questions, drawn by a fixed seed: half those that a run has wrong or that runs differ on.

    ``budget`` is the room for clips in bytes; returns the questions and the bytes that their clips take.
    """
    keys = sorted({key for run in split.runs for key in run.rows})
    random.Random(SEED).shuffle(keys)  # sorted before: a set has no order that is the same in every process
    wrong = [key for key in keys if not all(run.right.get(key, True) for run in split.runs)]
    # more than half where there are too few others
    chosen = wrong[: max(count // 2, count - (len(keys) - len(wrong)))]
    taken = set(chosen)
    chosen += [key for key in keys if key not in taken][: count - len(chosen)]
    places = {int(index): place for place, index in enumerate(split.data["dataset_index"])}
    found, used = [], 0
    roots = roots_of(split.data)
    for key in sorted(chosen):
        audio, reason, size = _clip(stored_cell(split.data[places[key]].get("audio"), roots), budget - used)
        used += size
        found.append(_question(split, key, audio, reason))
    return found, used


def _question(split: SplitRuns, key: int, audio: str, reason: str) -> ShownQuestion:
    row = next(run.rows[key] for run in split.runs if key in run.rows)
    made = split.spec.convert(row, key)
    replies = tuple(_reply(number, run, key) for number, run in enumerate(split.runs) if key in run.rows)
    verdicts = {reply.verdict for reply in replies}
    marks: list[str] = [name for name in ("wrong", "unparsed") if name in verdicts]
    marks += ["budget"] if any(reply.budget_hit for reply in replies) else []
    marks += ["differs"] if len({reply.verdict == "right" for reply in replies}) > 1 else []
    labels = (grouping.label(row) for grouping in split.spec.groupings)
    return ShownQuestion(
        str(made["id"]),
        str(made["question"]),
        tuple(made["choices"]),
        "" if made["answer"] is None else str(made["answer"]),
        tuple(dict.fromkeys(label for label in labels if label)),
        audio,
        reason,
        tuple(marks),
        replies,
    )


def _reply(number: int, run: RunSplit, key: int) -> RunReply:
    saved = run.replies[key]
    graded = {True: "right", False: "wrong", None: "unknown"}[run.right.get(key)]
    verdict = "unparsed" if is_unparsed(run.rows[key]) else graded
    answer = saved.get("llm_answer")
    if verdict == "unparsed":  # nothing was parsed: show the end of the text after the thoughts
        answer = re.split(_END_OF_THOUGHTS, str(saved.get("response") or ""))[-1].strip()[-300:]
    return RunReply(
        number,
        str(saved.get("thoughts") or ""),
        str(answer or ""),
        verdict,
        str(saved.get("error") or saved.get("parse_status") or ""),
        saved.get("num_tokens"),
        bool(saved.get("budget_hit")),
    )


def _clip(cell: Any, room: int) -> tuple[str, str, int]:
    """Data URI of a clip, the reason if there is none, and the bytes it takes."""
    try:
        data, media_type = read_encoded(cell)
    except UserError as error:
        log.warning("a clip cannot be read: %s", error)
        return "", "the clip cannot be read", 0
    size = len(data) * 4 // 3  # in base64
    if size > room:
        return "", "no room left for the clip (--audio-mb)", 0
    return data_uri(media_type, data), "", size
