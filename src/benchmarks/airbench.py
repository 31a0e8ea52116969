"""AIR-Bench Foundation (arXiv 2402.07729): 19 tasks over speech, sound and music; official rule by letters.

Names carry the authors' spelling and are matched literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from src.benchmarks.rules import (
    GOLD,
    as_letter_replies,
    clean,
    gold_letter,
    present_choices,
    score_by_letters,
    score_by_text,
)  # fmt: skip
from src.benchmarks.scoring import (
    NOT_COUNTED,
    PREDICTION,
    Average,
    Benchmark,
    BenchmarkRow,
    GroupBy,
    RuleResult,
    common_row,
    count_by,
)  # fmt: skip

DOMAINS = {
    "speech": (
        "Speech_Grounding", "Speaker_Gender_Recognition", "Speaker_Age_Prediction", "Speaker_Emotion_Recontion",
        "Speaker_Intent_Classification", "Speaker_Number_Verification", "Speech_Entity_Reconition",
        "Spoken_Language_Identification", "Synthesized_Voice_Detection",
    ),
    "sound": ("Acoustic_Scene_Classification", "Sound_AQA", "Audio_Grounding", "vocal_sound_classification"),
    "music": (
        "Music_Genre_Recognition", "Music_Instruments_Classfication", "Music_Mood_Recognition",
        "Music_Midi_Pitch_Analysis", "Music_Midi_Velocity_Analysis", "Music_AQA",
    ),
}  # fmt: skip
DOMAIN_OF = {task: domain for domain, tasks in DOMAINS.items() for task in tasks}
RATE, MOST_SECONDS = 16_000, 60
"""Rate of the rewritten clips, in Hz, and how much of a clip is kept."""
FLAC_TASK = "Audio_Grounding"
"""Its metadata says .wav, the files on disk are .flac."""


def _domain(row: BenchmarkRow) -> str | None:
    return DOMAIN_OF.get(str(row.get("task_name")))


def _pair(row: BenchmarkRow) -> str | None:
    if row.get("task_name") is None or row.get("dataset_name") is None:
        return None
    return f"{row['task_name']}_{row['dataset_name']}"


GROUPINGS = (
    GroupBy("domain", _domain, tuple(DOMAINS)),
    GroupBy.column("task", "task_name"),
    GroupBy("task_dataset", _pair),
)


def published(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The published system's text rule: a prediction None is replaced by ``choice_a``."""

    def prediction(row: BenchmarkRow) -> object:
        found = row.get(PREDICTION)
        return row.get("choice_a") if found is None or clean(found) == "None" else found

    result = _with_tables(rows, score_by_text(rows, prediction))
    total = result.published
    lines = [*_lines(result, "task_dataset"), f"total_sum: {total.n}", f"total_acc: {total.share}", "fail_num: 0"]
    numbers: dict[str, str | int] = {"total_sum": total.n, "total_acc": str(total.share), "fail_num": 0}
    return replace(result, lines=(*lines, *_lines(result, "task")), numbers=numbers)


def official(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The official letter rule over the letters of the chosen texts; unparsed replies are not counted."""
    return official_replies(as_letter_replies(rows))


def official_replies(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The official letter rule over ``response``."""
    # only the first of two equal choices is right: https://github.com/OFA-Sys/AIR-Bench/blob/main/score_foundation.py#L26-L33
    result = score_by_letters(rows, lambda row, letter: letter == gold_letter(row), reuse_letters=False)
    # rows of no task are printed and passed over before the reply is read (score_foundation.py#L14-L16)
    per_row = "".join(
        NOT_COUNTED if _pair(row) is None else code for row, code in zip(rows, result.per_row, strict=True)
    )
    result = _with_tables(rows, replace(result, per_row=per_row))
    total = result.published.n
    failed = sum(code == NOT_COUNTED and _pair(row) is not None for row, code in zip(rows, per_row, strict=True))
    lines = (*_lines(result, "task_dataset"), f"total_sum: {total}", f"fail_num: {failed}")
    return replace(result, lines=lines, numbers={"total_sum": total, "fail_num": failed})


def _with_tables(rows: Sequence[BenchmarkRow], result: RuleResult) -> RuleResult:
    tables = {
        "task_dataset": count_by(map(_pair, rows), result.per_row),
        "task": count_by(map(GROUPINGS[1].label, rows), result.per_row),
    }
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
    return replace(result, tables=tables, notes=tuple(notes))


def _lines(result: RuleResult, table: str) -> list[str]:
    groups = result.tables[table].items()
    return [f"{name}: Sum={found.n}, correct={found.right}, acc={found.share}" for name, found in groups]


def convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a raw row; ``audio`` is the name of the rewritten clip (:func:`written_name`)."""
    return common_row(
        str(row["question"]),
        present_choices(row),
        str(row[GOLD]),
        f"tmp_audio/{written_name(row, index)}",
        str(row["uniq_id"]),
        index,
    )


def source_path(row: BenchmarkRow) -> str:
    """Path of a row's clip below the download."""
    path = str(row["path"])
    if row["task_name"] == FLAC_TASK:  # Inference_Foundation.py of AIR-Bench replaces the ending, too
        path = path[:-3] + "flac"
    return f"Foundation/{_pair(row)}/{path}"


def written_name(row: BenchmarkRow, index: int) -> str:
    """File name of the clip as it is rewritten: mono, 16 kHz, at most 60 s."""
    return PurePosixPath(f"{index}_{_pair(row)}_{row['path']}").with_suffix(".wav").as_posix()


BENCHMARK = Benchmark(
    name="airbench",
    title="AIR-Bench Foundation",
    groupings=GROUPINGS,
    published_title="text rule of the published system (every row counts, None becomes the first choice)",
    published=published,
    convert=convert,
    source_path=source_path,
    id_key="uniq_id",
    official_title="official letter rule (score_foundation.py; unread replies are not counted)",
    official=official,
    official_replies=official_replies,
    averages=(
        # no official file computes it; the published averages equal this mean: 57.8 from 63.4, 61.0 and 48.9
        Average("mean of the three domain means (leaderboard)", "task", DOMAIN_OF.get, headline=True),
        Average("mean over task names", "task"),
    ),
    expected_rows={"test": 24683},
    notes=("No file of the benchmark prints an average; the published ones equal the mean of the domain means.",),
)
