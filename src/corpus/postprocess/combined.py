"""All collected corpora as one set: the columns that all have, one corpus after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.paths import raw_dir
from src.corpus.recipe import IDS
from src.dataset.corpus_names import group_of, groups
from src.dataset.tables import KEY, column_numbers, open_split

COLUMNS = ("audio", "audio_description", *IDS, KEY)
ORDER = ("speech", "environment", "music", "event", "complicated_speech")
"""Groups in the order in which they are joined."""
SEED = 1


def combined_order(names: Sequence[str]) -> list[str]:
    """The named corpora group by group. Raises :class:`UserError` for instruction sets, which lack descriptions."""
    spoken = [name for name in names if group_of(name) not in ORDER]
    if spoken:
        raise UserError(f"{', '.join(spoken)}: instruction sets have no descriptions and are not combined")
    return [name for group in ORDER for name in groups()[group] if name in names]


def combine(names: Sequence[str]) -> Any:
    """One memory-mapped set of the named corpora with the common columns and ``dataset_name``."""
    from datasets import Dataset, Features, Value, concatenate_datasets

    parts = []
    for name in combined_order(names):
        rows = open_split(raw_dir(name), "train", f"raw set {name}").select_columns(list(COLUMNS))
        label = Dataset.from_dict({"dataset_name": [name] * len(rows)}, Features({"dataset_name": Value("string")}))
        parts.append(concatenate_datasets([rows, label], axis=1))
    return concatenate_datasets(parts)


def examples(names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """``count`` random rows of every corpus without audio; the seed starts again in every group."""
    found = []
    draws = {group: random.Random(SEED) for group in ORDER}  # per group, as the published program draws them
    for name in combined_order(names):
        rows = open_split(raw_dir(name), "train", f"raw set {name}").select_columns(list(COLUMNS[1:]))
        for row in draws[group_of(name)].sample(range(len(rows)), min(count, len(rows))):
            found.append({"dataset_name": name, **rows[row]})
    return found


def totals(names: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """Group, name, rows and hours of every corpus, group by group."""
    found = []
    for name in combined_order(names):
        rows = open_split(raw_dir(name), "train", f"raw set {name}")
        seconds = column_numbers(rows, "duration")
        found.append((group_of(name), name, len(rows), 0.0 if seconds is None else float(np.nansum(seconds)) / 3600))
    return found
