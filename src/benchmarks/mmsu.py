"""MMSU (arXiv 2506.04779): spoken language; scored by letters officially, by text in the published system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from src.benchmarks.rules import GOLD, LETTERS, as_letter_replies, present_choices, score_by_letters, score_by_text
from src.benchmarks.scoring import (
    CHOICE_KEYS,
    PREDICTION,
    Average,
    Benchmark,
    BenchmarkRow,
    GroupBy,
    RuleResult,
    common_row,
    count_by,
)  # fmt: skip


def _pair(row: BenchmarkRow) -> str:
    return f"{row.get('category', '')} / {row.get('sub-category', '')}"


GROUPINGS = (
    GroupBy.column("category", fixed=("Perception", "Reasoning")),
    GroupBy("category / sub-category", _pair),
    GroupBy.column("sub-sub-category"),
    GroupBy.column("task", "task_name"),
)


def published(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The published system's text rule: a missing prediction is the empty text, a null one the word None."""
    return _printed(rows, score_by_text(rows, lambda row: row.get(PREDICTION, "")))


def official(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The official letter rule over the letters of the chosen texts; unparsed replies are not counted."""
    return _printed(rows, score_by_letters(as_letter_replies(rows), _is_right, reuse_letters=False))


def official_replies(rows: Sequence[BenchmarkRow]) -> RuleResult:
    """The official letter rule over ``response``, blank replies scored with the letter before, as its file does."""
    return _printed(rows, score_by_letters(rows, _is_right, reuse_letters=True))


def _is_right(row: BenchmarkRow, letter: str) -> bool:
    # a row without the choice or without the answer has the empty text there, as mmsu_evaluation.py reads it
    return row.get(CHOICE_KEYS[LETTERS.index(letter)], "") == row.get(GOLD, "")


def _printed(rows: Sequence[BenchmarkRow], result: RuleResult) -> RuleResult:
    """The result with its tables, and the printout of mmsu_evaluation.py."""
    by_category = count_by((str(row.get("category", "")) for row in rows), result.per_row)
    by_pair = count_by(map(_pair, rows), result.per_row)
    notes = []
    if reused := result.reused_letter:
        notes.append(
            f"{len(reused)} row(s) with a blank reply are scored above with the letter of an earlier row "
            f"(rows {', '.join(map(str, reused[:10]))}); in our count they are wrong."
        )
    overall = f"{result.published.share:.4f}"
    lines = [f"{pair}: {found.share:.4f}" for pair, found in by_pair.items()]
    lines += [f"Category: {name}, Average Accuracy: {found.share:.4f}" for name, found in by_category.items()]
    lines += [f"Overall Accuracy: {overall}", f"Total count: {result.published.n}"]
    return replace(
        result,
        lines=tuple(lines),
        tables={"category": by_category, "category_sub": by_pair},
        numbers={"overall": overall, "total_count": result.published.n},
        notes=tuple(notes),
    )


def convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that contains ``audio``."""
    audio = str(row["audio_path"])[1:]  # raw paths begin with "/", but are relative to the download
    return common_row(row["question"], present_choices(row), str(row[GOLD]), audio, str(row["id"]), index)


def keep(row: BenchmarkRow) -> dict[str, Any]:
    """The row as the kept metadata has it: with a list of its choices, as they are."""
    return {**row, "choices": [row[key] for key in CHOICE_KEYS if key in row]}


BENCHMARK = Benchmark(
    name="mmsu",
    title="MMSU",
    groupings=GROUPINGS,
    published_title="text rule of the published system (every row counts)",
    published=published,
    convert=convert,
    keep=keep,
    official_title="official letter rule (mmsu_evaluation.py; unread replies are not counted)",
    official=official,
    official_replies=official_replies,
    averages=(
        Average("mean over categories", "category"),
        Average("mean over 4 category / sub-category pairs", "category / sub-category"),
        Average("mean over task names", "task"),
    ),
    expected_rows={"test": 5000},
    notes=("The leaderboard number is the share of all rows (micro).",),
)
