"""A few clips of each split, with what every system thought and answered."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from src.benchmarks.choice import Verdict
from src.benchmarks.exact import saved_response
from src.prompts.betrayal import betraying_spans
from src.prompts.texts import Prompts
from src.report.evidence import Evidence, SystemEvidence
from src.report.spectrogram import read_sound, spectrogram_uri

CHOICE_CLIPS, OPEN_CLIPS = 4, 2
SEED = 7


@dataclass(frozen=True)
class Reply:
    """What one system made of a clip; betraying words are marked in ``thoughts``."""

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


def choose_clips(evidence: Evidence) -> dict[str, list[Clip]]:
    """Clips by split: drawn by a fixed seed, one question kind each, and at least one mistake if there are any."""
    clips: dict[str, list[Clip]] = {}
    for split in evidence.splits:
        chosen = [
            _clip(evidence, split, row, False)
            for row in _draw(evidence.choice_questions[split], evidence.main.choice.get(split, []), CHOICE_CLIPS)
        ]
        chosen += [
            _clip(evidence, split, row, True)
            for row in _draw(evidence.open_questions.get(split, []), evidence.main.open.get(split, []), OPEN_CLIPS)
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


def _clip(evidence: Evidence, split: str, row: dict[str, Any], is_open: bool) -> Clip:
    key = row["dataset_index"]
    sound = read_sound(row["audio"], f"{split}, dataset_index {key}")
    replies = [_reply(evidence, system, split, key, is_open) for system in evidence.listed]
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


def _reply(evidence: Evidence, system: SystemEvidence, split: str, key: int, is_open: bool) -> Reply | None:
    verdicts, answers = (system.open, system.open_answers) if is_open else (system.choice, system.choice_answers)
    verdict = next((item for item in verdicts.get(split, []) if item.key == key), None)
    if verdict is None:
        return None
    thoughts = mark_betrayals(saved_response(answers[split][key]).thoughts, evidence.prompts)
    is_main = system.runs.key == evidence.main.runs.key
    return Reply(system.runs.title, system.runs.role, is_main, thoughts, verdict.given, verdict.right, verdict.status)


def mark_betrayals(text: str, prompts: Prompts) -> Markup:
    """Text for HTML with the words by which it betrays a reader in ``mark`` elements."""
    parts, end = [], 0
    for span in betraying_spans(text, prompts):
        parts += [escape(text[end : span.start]), Markup("<mark>{}</mark>").format(text[span.start : span.end])]
        end = span.end
    return Markup("").join([*parts, escape(text[end:])])
