"""Some rows of a saved set as a set of its own: ascending keys, numbers unchanged, audio bytes as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.dataset.tables import join_rows, open_split, read_keys
from src.dataset.writer import write_set

_BATCH = 200


def save_rows(source: Path, target: Path, kept: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Write the rows of the set in ``source`` with the keys ``kept`` ``(rows,)`` of every split to ``target``.

    A set that was in ``target`` is replaced when the new one is complete. Returns rows by split. Raises
    :class:`UserError` if the source lacks a split or a key.
    """
    splits = {}
    for split, keys in kept.items():
        table = open_split(source, split, f"rows of {source.name}")
        rows = join_rows(read_keys(table, source.name), np.sort(keys), source.name, target.name)
        splits[split] = (table.features, rows_of(table, rows))
    return write_set(target, splits)


def rows_of(table: Any, rows: np.ndarray) -> Iterator[Any]:
    """Arrow tables of whole rows at these positions ``(rows,)``, audio included, some at a time."""
    view = table.with_format("arrow")
    for start in range(0, rows.size, _BATCH):
        yield view[rows[start : start + _BATCH]]
