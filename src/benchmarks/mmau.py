"""MMAU (arXiv 2410.19168): sound, music and speech; scored by words (github.com/Sakshi113/MMAU, evaluation.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

from src.benchmarks.rules import score_by_words
from src.benchmarks.scoring import Average, Benchmark, BenchmarkRow, GroupBy, common_row
from src.prompts.multiple_choice import choice_texts

GROUPINGS = (
    GroupBy.column("task", fixed=("sound", "music", "speech")),
    GroupBy.column("difficulty", fixed=("easy", "hard", "medium")),
    GroupBy.column("sub-category"),
)


def convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that contains ``test-mini-audios``."""
    choices = choice_texts(row["choices"])
    # raw paths begin with "./"
    return common_row(row["question"], choices, row.get("answer"), str(row["audio_id"])[2:], row["id"], index)


BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU",
    groupings=GROUPINGS,
    published_title="word rule (official; the published system uses the same)",
    published=partial(score_by_words, groupings=GROUPINGS),
    convert=convert,
    averages=(Average("mean over tasks", "task"), Average("mean over difficulties", "difficulty")),
    expected_rows={"test-mini": 1000, "test": 9000},
    notes=(
        "The leaderboard number is the share of all rows (micro).",
        "Test answers are withheld: that split is scored by the authors alone.",
    ),
)
