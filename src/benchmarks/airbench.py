"""AIR-Bench Foundation (arXiv 2402.07729): 19 tasks over speech, sound and music; official rule by letters.

Names carry the authors' spelling and are matched literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from src.benchmarks.letter_rule import GOLD, Marks, as_replies, gold_letter, mark_letters, mark_texts
from src.benchmarks.outcomes import LEFT_OUT, PREDICTION, Row, Ruling, count_by, label_of, strict_marks
from src.benchmarks.rules import clean
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row, present_choices

DOMAINS = {
    "speech": (
        "Speech_Grounding",
        "Speaker_Gender_Recognition",
        "Speaker_Age_Prediction",
        "Speaker_Emotion_Recontion",
        "Speaker_Intent_Classification",
        "Speaker_Number_Verification",
        "Speech_Entity_Reconition",
        "Spoken_Language_Identification",
        "Synthesized_Voice_Detection",
    ),
    "sound": ("Acoustic_Scene_Classification", "Sound_AQA", "Audio_Grounding", "vocal_sound_classification"),
    "music": (
        "Music_Genre_Recognition",
        "Music_Instruments_Classfication",
        "Music_Mood_Recognition",
        "Music_Midi_Pitch_Analysis",
        "Music_Midi_Velocity_Analysis",
        "Music_AQA",
    ),
}
DOMAIN_OF = {task: domain for domain, tasks in DOMAINS.items() for task in tasks}
RATE, MOST_SECONDS = 16_000, 60
"""Rate of the rewritten clips, in Hz, and how much of a clip is kept."""
FLAC_TASK = "Audio_Grounding"
"""Its metadata says .wav, the files on disk are .flac."""


def _domain(row: Row) -> str | None:
    return DOMAIN_OF.get(str(row.get("task_name")))


def _pair(row: Row) -> str | None:
    if row.get("task_name") is None or row.get("dataset_name") is None:
        return None
    return f"{row['task_name']}_{row['dataset_name']}"


GROUPINGS = (
    Grouping("domain", _domain, tuple(DOMAINS)),
    Grouping("task", partial(label_of, key="task_name")),
    Grouping("task_dataset", _pair),
)


def published(rows: Sequence[Row]) -> Ruling:
    """The published system's text rule: a prediction None is replaced by ``choice_a``."""
    marks = mark_texts(rows, _published_prediction)
    return _ruling(rows, marks, _printed_texts)


def official(rows: Sequence[Row]) -> Ruling:
    """The official letter rule over the letters of the chosen texts; unread replies are not counted."""
    return _letters(as_replies(rows))


def official_replies(rows: Sequence[Row]) -> Ruling:
    """The official letter rule over ``response``."""
    return _letters(rows)


def _published_prediction(row: Row) -> object:
    prediction = row.get(PREDICTION)
    return row.get("choice_a") if prediction is None or clean(prediction) == "None" else prediction


def _letters(rows: Sequence[Row]) -> Ruling:
    marks = mark_letters(rows, lambda row, letter: letter == gold_letter(row), reuse_letters=False)
    # rows of no task are printed and passed over before the reply is read
    named = "".join(LEFT_OUT if _pair(row) is None else mark for row, mark in zip(rows, marks.published, strict=True))
    return _ruling(rows, Marks(named, marks.right, marks.unread, marks.known), _printed_letters)


def _ruling(rows: Sequence[Row], marks: Marks, printed: Any) -> Ruling:
    tables = {"task_dataset": count_by(map(_pair, rows), marks.published)}
    tables["task"] = count_by((label_of(row, "task_name") for row in rows), marks.published)
    ruling = Ruling(marks.published, strict_marks(marks.right, marks.unread, marks.known), marks.unread, (), tables)
    lines, numbers = printed(ruling, rows)
    return replace(ruling, lines=lines, numbers=numbers, notes=tuple(_notes(rows)))


def _printed_texts(ruling: Ruling, rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, str | int]]:
    count = ruling.published
    lines = _table_lines(ruling, "task_dataset")
    lines += [f"total_sum: {count.n}", f"total_acc: {count.share}", "fail_num: 0", *_table_lines(ruling, "task")]
    return tuple(lines), {"total_sum": count.n, "total_acc": str(count.share), "fail_num": 0}


def _printed_letters(ruling: Ruling, rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, str | int]]:
    count = ruling.published
    failed = sum(mark == LEFT_OUT and _pair(row) is not None for row, mark in zip(rows, ruling.marks, strict=True))
    lines = [*_table_lines(ruling, "task_dataset"), f"total_sum: {count.n}", f"fail_num: {failed}"]
    return tuple(lines), {"total_sum": count.n, "fail_num": failed}


def _table_lines(ruling: Ruling, table: str) -> list[str]:
    return [
        f"{name}: Sum={count.n}, correct={count.right}, acc={count.share}"
        for name, count in ruling.tables[table].items()
    ]


def _notes(rows: Sequence[Row]) -> list[str]:
    nameless = sum(_pair(row) is None for row in rows)
    unmatched = sum(row.get(GOLD) is not None and gold_letter(row) is None for row in rows)
    unknown = sorted({str(row.get("task_name")) for row in rows} - DOMAIN_OF.keys() - {"None"})
    notes = []
    if nameless:
        notes.append(f"{nameless} row(s) without task_name or dataset_name are in no table.")
    if unmatched:
        notes.append(f"{unmatched} row(s) have an answer that equals no choice; the official file stops there.")
    if unknown:
        notes.append(f"tasks of no domain, left out of the leaderboard average: {', '.join(unknown)}.")
    return notes


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a raw row; ``audio`` is the name of the rewritten clip (:func:`written_name`)."""
    return common_row(
        str(row["question"]),
        present_choices(row),
        str(row[GOLD]),
        f"tmp_audio/{written_name(row, index)}",
        str(row["uniq_id"]),
        index,
    )


def source_path(row: Row) -> str:
    """Where a row's clip lies below the download."""
    path = str(row["path"])
    if row["task_name"] == FLAC_TASK:
        path = path[:-3] + "flac"
    return f"Foundation/{_pair(row)}/{path}"


def written_name(row: Row, index: int) -> str:
    """File name of the clip as it is rewritten: mono, 16 kHz, at most 60 s."""
    return PurePosixPath(f"{index}_{_pair(row)}_{row['path']}").with_suffix(".wav").as_posix()


def rewritten_samples(samples: int, rate: int) -> int:
    """Samples of a rewritten clip, from the source's samples per channel and rate."""
    return min(MOST_SECONDS * RATE, -(-samples * RATE // rate))


BENCHMARK = Benchmark(
    name="airbench",
    title="AIR-Bench Foundation",
    splits=("test",),
    groupings=GROUPINGS,
    published_title="text rule of the published system (every row counts, None becomes the first choice)",
    published=published,
    convert=convert,
    source_path=source_path,
    id_key="uniq_id",
    gold_key=GOLD,
    official_title="official letter rule (score_foundation.py; unread replies are not counted)",
    official=official,
    official_replies=official_replies,
    averages=(
        Average("mean of the three domain means (leaderboard)", "task", DOMAIN_OF.get, headline=True),
        Average("mean over task names", "task"),
    ),
    micro_is_headline=False,
    prediction_keys=("response",),
    expected_rows={"test": 24683},
    notes=("No file of the benchmark prints an average; the published ones equal the mean of the domain means.",),
)
