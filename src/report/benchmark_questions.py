"""Single questions of a benchmark for a report: clip, options, and what every run thought and answered."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass
from typing import Any

from src.audio.decode import cell_source
from src.audio.roots import roots_of, stored_cell
from src.common.errors import UserError
from src.common.log import get_logger
from src.report.benchmark_runs import RunSplit, Test

log = get_logger(__name__)
SEED = 7
MEDIA_TYPES = ((b"RIFF", "audio/wav"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"))


@dataclass(frozen=True)
class Reply:
    """What one run made of a question."""

    run: int
    thoughts: str
    answer: str
    verdict: str
    status: str
    tokens: int | None
    budget_hit: bool


@dataclass(frozen=True)
class Question:
    """One question; ``audio`` is a data URI, empty if the clip is too large for the page or cannot be read.

    ``marks`` names what the page's filters look for: wrong, unread, budget, differs.
    """

    row_id: str
    text: str
    options: tuple[str, ...]
    gold: str
    labels: tuple[str, ...]
    audio: str
    no_audio: str
    marks: tuple[str, ...]
    replies: tuple[Reply, ...]


def choose_questions(test: Test, count: int, budget: int) -> tuple[list[Question], int]:
    """Up to ``count`` questions, drawn by a fixed seed: half those that a run has wrong or that runs differ on.

    ``budget`` is the room for clips in bytes; returns the questions and the bytes that their clips take.
    """
    keys = sorted({key for run in test.runs for key in run.rows})
    random.Random(SEED).shuffle(keys)
    told = [key for key in keys if not all(run.right.get(key, True) for run in test.runs)]
    chosen = told[: max(count // 2, count - (len(keys) - len(told)))]
    taken = set(chosen)
    chosen += [key for key in keys if key not in taken][: count - len(chosen)]
    places = {int(index): place for place, index in enumerate(test.data["dataset_index"])}
    found, used = [], 0
    roots = roots_of(test.data)
    for key in sorted(chosen):
        audio, reason, size = _clip(stored_cell(test.data[places[key]].get("audio"), roots), budget - used)
        used += size
        found.append(_question(test, key, audio, reason))
    return found, used


def _question(test: Test, key: int, audio: str, reason: str) -> Question:
    row = next(run.rows[key] for run in test.runs if key in run.rows)
    made = test.spec.convert(row, key)
    replies = tuple(_reply(number, run, key) for number, run in enumerate(test.runs) if key in run.rows)
    verdicts = {reply.verdict for reply in replies}
    marks: list[str] = [name for name in ("wrong", "unread") if name in verdicts]
    if any(reply.budget_hit for reply in replies):
        marks.append("budget")
    if len({reply.verdict == "right" for reply in replies}) > 1:
        marks.append("differs")
    labels = (grouping.label(row) for grouping in test.spec.groupings)
    return Question(
        str(made["id"]),
        str(made["question"]),
        tuple(made["choices"]),
        str(made["answer"]),
        tuple(dict.fromkeys(label for label in labels if label)),
        audio,
        reason,
        tuple(marks),
        replies,
    )


def _reply(number: int, run: RunSplit, key: int) -> Reply:
    saved = run.replies[key]
    verdict = "unread" if run.unread(key) else "right" if run.right[key] else "wrong"
    answer = saved.get("llm_answer") if verdict != "unread" else _tail(saved)
    return Reply(
        number,
        str(saved.get("thoughts") or ""),
        str(answer or ""),
        verdict,
        str(saved.get("error") or saved.get("parse_status") or ""),
        saved.get("num_tokens"),
        bool(saved.get("budget_hit")),
    )


def _tail(saved: dict[str, Any]) -> str:
    """The end of a reply that could not be read, after its thoughts."""
    return str(saved.get("response") or "").rsplit("</think>", 1)[-1].strip()[-300:]


def _clip(cell: Any, room: int) -> tuple[str, str, int]:
    """Data URI of a clip, why there is none, and the bytes it takes."""
    try:
        source, _ = cell_source(cell)
        data = source if isinstance(source, bytes) else source.read_bytes()
    except (OSError, KeyError, TypeError, AttributeError, UserError) as error:
        log.warning("a clip cannot be read: %s", error)
        return "", "the clip cannot be read", 0
    size = len(data) * 4 // 3
    if size > room:
        return "", "no room left for the clip (--audio-mb)", 0
    kind = next((media for start, media in MEDIA_TYPES if data.startswith(start)), "audio/mpeg")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", "", size
