"""MMAR (arXiv 2505.13032): seven mixtures of sound, music and speech; scored by words (code/evaluation.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from src.benchmarks.outcomes import Row, Ruling, label_of
from src.benchmarks.spec import Average, Benchmark, Grouping, common_row
from src.benchmarks.word_rule import word_ruling
from src.prompts.options import choice_texts

MODALITIES = (
    "sound",
    "music",
    "speech",
    "mix-sound-music",
    "mix-sound-speech",
    "mix-music-speech",
    "mix-sound-music-speech",
)
GROUPINGS = (
    Grouping("modality", partial(label_of, key="modality"), MODALITIES),
    Grouping(
        "category",
        partial(label_of, key="category"),
        ("Signal Layer", "Perception Layer", "Semantic Layer", "Cultural Layer"),
    ),
    Grouping("sub-category", partial(label_of, key="sub-category")),
)


def published(rows: Sequence[Row]) -> Ruling:
    """The official word rule; the published system uses it unchanged."""
    return word_ruling(rows, GROUPINGS)


def convert(row: Row, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that holds ``audio``."""
    choices = choice_texts(row["choices"])
    return common_row(row["question"], choices, row.get("answer"), str(row["audio_path"])[2:], row["id"], index)


BENCHMARK = Benchmark(
    name="mmar",
    title="MMAR",
    splits=("test",),
    groupings=GROUPINGS,
    published_title="word rule (official; the published system uses the same)",
    published=published,
    convert=convert,
    averages=(Average("mean over modalities", "modality"), Average("mean over layers", "category")),
    prediction_keys=("answer_prediction",),
    expected_rows={"test": 1000},
    notes=(
        "The leaderboard number is the share of all rows (micro).",
        "In the 2025 edition of the metadata no choice scores right for 5 rows: 99.5 % is the most.",
    ),
)
