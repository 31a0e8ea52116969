"""MMSU (arXiv 2506.04779): spoken language; scored by letters officially, by text in the published system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from src.benchmarks.letter_rule import GOLD, Marks, as_replies, choice_text, mark_letters, mark_texts
from src.benchmarks.outcomes import PREDICTION, Row, Ruling, count_by, label_of, strict_marks
from src.benchmarks.rules import CHOICE_KEYS
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row, present_choices


def _pair(row: Row) -> str:
    return f"{row.get('category', '')} / {row.get('sub-category', '')}"


GROUPINGS = (
    Grouping("category", partial(label_of, key="category"), ("Perception", "Reasoning")),
    Grouping("category / sub-category", _pair),
    Grouping("sub-sub-category", partial(label_of, key="sub-sub-category")),
    Grouping("task", partial(label_of, key="task_name")),
)


def published(rows: Sequence[Row]) -> Ruling:
    """The published system's text rule: a missing prediction is the empty text, a null one the word None."""
    return _ruling(rows, mark_texts(rows, lambda row: row.get(PREDICTION, "")))


def official(rows: Sequence[Row]) -> Ruling:
    """The official letter rule over the letters of the chosen texts; unread replies are not counted."""
    return _ruling(rows, mark_letters(as_replies(rows), _is_right, reuse_letters=False))


def official_replies(rows: Sequence[Row]) -> Ruling:
    """The official letter rule over ``response``, blank replies scored with the letter before, as its file does."""
    return _ruling(rows, mark_letters(rows, _is_right, reuse_letters=True))


def _is_right(row: Row, letter: str) -> bool:
    return choice_text(row, letter) == row.get(GOLD, "")


def _ruling(rows: Sequence[Row], marks: Marks) -> Ruling:
    tables = {
        "category": count_by((str(row.get("category", "")) for row in rows), marks.published),
        "category_sub": count_by(map(_pair, rows), marks.published),
    }
    notes = []
    if marks.stale:
        notes.append(
            f"{len(marks.stale)} row(s) with a blank reply are scored above with the letter of an earlier row "
            f"(rows {', '.join(map(str, marks.stale[:10]))}); in our count they are wrong."
        )
    ruling = Ruling(marks.published, strict_marks(marks.right, marks.unread, marks.known), marks.unread, (), tables)
    overall = f"{ruling.published.share:.4f}"
    lines = [f"{pair}: {count.share:.4f}" for pair, count in tables["category_sub"].items()]
    lines += [f"Category: {name}, Average Accuracy: {count.share:.4f}" for name, count in tables["category"].items()]
    lines += [f"Overall Accuracy: {overall}", f"Total count: {ruling.published.n}"]
    numbers: dict[str, str | int] = {"overall": overall, "total_count": ruling.published.n}
    return replace(ruling, lines=tuple(lines), numbers=numbers, notes=tuple(notes), stale=marks.stale)


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that holds ``audio``."""
    audio = str(row["audio_path"])[1:]
    return common_row(row["question"], present_choices(row), str(row[GOLD]), audio, str(row["id"]), index)


def keep(row: Row) -> dict[str, Any]:
    """The row as the kept metadata has it: with a list of its choices, as they are."""
    return {**row, "choices": [row[key] for key in CHOICE_KEYS if key in row]}


BENCHMARK = Benchmark(
    name="mmsu",
    title="MMSU",
    splits=("test",),
    groupings=GROUPINGS,
    published_title="text rule of the published system (every row counts)",
    published=published,
    convert=convert,
    keep=keep,
    gold_key=GOLD,
    official_title="official letter rule (mmsu_evaluation.py; unread replies are not counted)",
    official=official,
    official_replies=official_replies,
    averages=(
        Average("mean over categories", "category"),
        Average("mean over 4 category / sub-category pairs", "category / sub-category"),
        Average("mean over task names", "task"),
    ),
    prediction_keys=("response",),
    expected_rows={"test": 5000},
    notes=("The leaderboard number is the share of all rows (micro).",),
)
