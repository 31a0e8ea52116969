"""MMAU (arXiv 2410.19168): sound, music and speech; scored by words (github.com/Sakshi113/MMAU, evaluation.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from src.benchmarks.outcomes import Row, Ruling, label_of
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row
from src.benchmarks.word_rule import word_ruling
from src.prompts.options import choice_texts

GROUPINGS = (
    Grouping("task", partial(label_of, key="task"), ("sound", "music", "speech")),
    Grouping("difficulty", partial(label_of, key="difficulty"), ("easy", "hard", "medium")),
    Grouping("sub-category", partial(label_of, key="sub-category")),
)


def published(rows: Sequence[Row]) -> Ruling:
    """The official word rule; the published system uses it unchanged."""
    return word_ruling(rows, GROUPINGS)


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that holds ``test-mini-audios``."""
    choices = choice_texts(row["choices"])
    return common_row(row["question"], choices, row.get("answer"), str(row["audio_id"])[2:], row["id"], index)


BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU",
    splits=("test-mini", "test"),
    groupings=GROUPINGS,
    published_title="word rule (official; the published system uses the same)",
    published=published,
    convert=convert,
    averages=(Average("mean over tasks", "task"), Average("mean over difficulties", "difficulty")),
    prediction_keys=("model_output",),
    expected_rows={"test-mini": 1000, "test": 9000},
    notes=(
        "The leaderboard number is the share of all rows (micro).",
        "Test answers are withheld: that split is scored by the authors alone.",
    ),
)
