"""MMAR (arXiv 2505.13032): seven mixtures of sound, music and speech; scored by words (code/evaluation.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

from src.benchmarks.rules import score_by_words
from src.benchmarks.scoring import Average, Benchmark, BenchmarkRow, GroupBy, common_row
from src.prompts.multiple_choice import choice_texts

MODALITIES = (
    "sound", "music", "speech",
    "mix-sound-music", "mix-sound-speech", "mix-music-speech", "mix-sound-music-speech",
)  # fmt: skip
LAYERS = ("Signal Layer", "Perception Layer", "Semantic Layer", "Cultural Layer")
GROUPINGS = (
    GroupBy.column("modality", fixed=MODALITIES),
    GroupBy.column("category", fixed=LAYERS),
    GroupBy.column("sub-category"),
)


def convert(row: BenchmarkRow, index: int) -> dict[str, Any]:
    """Common columns of a raw row; the path is relative to the folder that contains ``audio``."""
    choices = choice_texts(row["choices"])
    # raw paths begin with "./"
    return common_row(row["question"], choices, row.get("answer"), str(row["audio_path"])[2:], row["id"], index)


BENCHMARK = Benchmark(
    name="mmar",
    title="MMAR",
    groupings=GROUPINGS,
    published_title="word rule (official; the published system uses the same)",
    published=partial(score_by_words, groupings=GROUPINGS),
    convert=convert,
    averages=(Average("mean over modalities", "modality"), Average("mean over layers", "category")),
    expected_rows={"test": 1000},
    notes=(
        "The leaderboard number is the share of all rows (micro).",
        "In the 2025 edition of the metadata no choice scores right for 5 rows: 99.5 % is the most.",
    ),
)
