"""A few clips of each split, with what every system thought and answered."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from examples.miniature.report.results import JobResults, SystemResults
from examples.miniature.report.scoring import Verdict, saved_response
from src.report.spectrogram import read_sound, spectrogram_uri
from src.report.templating import mark_leaks

CHOICE_CLIPS, OPEN_CLIPS = 4, 2
SEED = 7


@dataclass(frozen=True)
class Reply:
    """Answer of one system about a clip; words that show a read text are marked in ``thoughts``."""

    system: str
    role: str
    is_main: bool
    thoughts: Markup
    answer: str
    right: bool
    status: str


@dataclass(frozen=True)
class Clip:
    """One clip of the report; ``options`` is empty for an open question."""

    split: str
    kind: str
    question: str
    options: tuple[str, ...]
    gold: str
    description: str
    seconds: float
    audio: str
    picture: str
    replies: tuple[Reply, ...]


def choose_clips(results: JobResults) -> dict[str, list[Clip]]:
    """Clips by split: drawn by a fixed seed, one question kind each, and at least one mistake if there are any."""
    clips: dict[str, list[Clip]] = {}
    for split in results.splits:
        chosen = [
            _clip(results, split, row, False)
            for row in _draw(results.choice_questions[split], results.main.choice.get(split, []), CHOICE_CLIPS)
        ]
        chosen += [
            _clip(results, split, row, True)
            for row in _draw(results.open_questions.get(split, []), results.main.open.get(split, []), OPEN_CLIPS)
        ]
        clips[split] = chosen
    return clips


def _draw(rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict], count: int) -> list[dict[str, Any]]:
    """Rows that the main system answered: different kinds first, the last place for a mistake."""
    answered = {verdict.key: verdict for verdict in verdicts}
    pool = [row for row in rows if row["dataset_index"] in answered]
    random.Random(SEED).shuffle(pool)
    first_of_kind = {row.get("kind"): row["dataset_index"] for row in reversed(pool)}
    fresh = [row for row in pool if first_of_kind[row.get("kind")] == row["dataset_index"]]
    ordered = fresh + [row for row in pool if first_of_kind[row.get("kind")] != row["dataset_index"]]
    chosen = ordered[:count]
    wrong = [row for row in ordered if not answered[row["dataset_index"]].right]
    if chosen and wrong and all(answered[row["dataset_index"]].right for row in chosen):
        chosen[-1] = wrong[0]
    return chosen


def _clip(results: JobResults, split: str, row: dict[str, Any], is_open: bool) -> Clip:
    key = row["dataset_index"]
    sound = read_sound(row["audio"], f"{split}, dataset_index {key}")
    replies = [_reply(results, system, split, key, is_open) for system in results.listed]
    return Clip(
        split,
        str(row.get("kind", "")),
        str(row["prompt"] if is_open else row["question"]),
        () if is_open else tuple(row["choices"]),
        str(row["answer"]),
        str(row.get("audio_description", "")),
        sound.seconds,
        sound.data_uri(),
        spectrogram_uri(sound),
        tuple(reply for reply in replies if reply is not None),
    )


def _reply(results: JobResults, system: SystemResults, split: str, key: int, is_open: bool) -> Reply | None:
    verdicts, answers = (system.open, system.open_answers) if is_open else (system.choice, system.choice_answers)
    verdict = next((item for item in verdicts.get(split, []) if item.key == key), None)
    if verdict is None:
        return None
    thoughts = mark_leaks(saved_response(answers[split][key]).thoughts, results.prompts)
    is_main = system.runs.key == results.main.runs.key
    return Reply(system.runs.title, system.runs.role, is_main, thoughts, verdict.given, verdict.right, verdict.status)
