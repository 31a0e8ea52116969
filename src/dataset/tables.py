"""Saved data sets, opened memory-mapped, and the join of their rows by ``dataset_index``.

Rows of two sets are matched by their keys only, never by their positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import load_saved

KEY = "dataset_index"
_CHUNK = 100_000
_SPREAD = 16
"""Rows are read as one slice where it is at most so many times as long as their number."""
_SHOWN = 5


def open_split(directory: Path, split: str, purpose: str) -> Any:
    """One split of a saved ``DatasetDict`` (or a saved ``Dataset``, which counts as its own ``train``).

    Raises :class:`UserError` if the folder, or the split in it, does not exist; ``purpose`` names it in the message.
    """
    from datasets import DatasetDict

    _check_folder(directory, purpose)
    try:
        saved = load_saved(directory)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(f"{purpose}: {directory} is not a saved data set ({error})") from error
    splits = saved if isinstance(saved, DatasetDict) else {"train": saved}
    if split not in splits:
        raise UserError(f"{purpose}: {directory} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]


def open_keyed(directory: Path, split: str, purpose: str) -> tuple[Any, np.ndarray]:
    """One split and its keys, int64 ``(rows,)``; see :func:`open_split` and :func:`read_keys`."""
    table = open_split(directory, split, purpose)
    return table, read_keys(table, purpose)


def native_splits(directory: Path, purpose: str = "") -> tuple[str, ...]:
    """Split names of a saved ``DatasetDict``, read from its listing; ``("train",)`` for a single set.

    With ``purpose`` a folder that does not exist is a :class:`UserError`, as in :func:`open_split`.
    """
    if purpose:
        _check_folder(directory, purpose)
    listing = directory / "dataset_dict.json"
    if not listing.is_file():
        return ("train",)
    return tuple(json.loads(listing.read_text(encoding="utf-8"))["splits"])


def _check_folder(directory: Path, purpose: str) -> None:
    if not directory.is_dir():
        raise UserError(f"{purpose}: no folder {directory}; build it first, or set ALARM_DATA_ROOT to its data root")


def read_keys(table: Any, name: str) -> np.ndarray:
    """The ``dataset_index`` column as int64 ``(rows,)``.

    Raises :class:`UserError` naming the set if the column is missing or not integer, or a key is repeated.
    """
    if KEY not in table.column_names:
        raise UserError(f"{name} has no column {KEY!r}; it has {', '.join(table.column_names)}")
    # as Arrow: table[KEY] would make a Python integer of every key
    column = table.select_columns([KEY]).with_format("arrow")[:].column(KEY)
    if column.null_count:
        raise UserError(f"{name}: {column.null_count} rows have no {KEY}")
    keys = column.to_numpy()
    if not np.issubdtype(keys.dtype, np.integer):
        raise UserError(f"{name}: {KEY} contains {keys.dtype}, expected whole numbers")
    keys = keys.astype(np.int64, copy=False)
    if keys.size > 1 and not bool((keys[1:] > keys[:-1]).all()):  # ascending keys, the usual case, are distinct
        ordered = np.sort(keys)
        repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if repeated.size:
            raise UserError(f"{name}: {repeated.size} values of {KEY} occur more than once: {first_of(repeated)}")
    return keys


def find_rows(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position in ``keys`` of every wanted key ``(n,)``, -1 where it is missing. ``keys`` are distinct."""
    if keys.size == 0 or wanted.size == 0:
        return np.full(wanted.shape, -1, dtype=np.int64)
    inside = (wanted >= 0) & (wanted < keys.size)  # a negative index would count from the end
    if bool(inside.all()) and bool((keys[wanted] == wanted).all()):
        return wanted.astype(np.int64, copy=False)  # usually row i has key i
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys, wanted, sorter=order), keys.size - 1)
    rows = order[place]
    return np.where(keys[rows] == wanted, rows, -1)


def join_rows(keys: np.ndarray, wanted: np.ndarray, name: str, asked_by: str) -> np.ndarray:
    """Like :func:`find_rows`, but a missing key is a :class:`UserError` naming the set and the first such keys."""
    rows = find_rows(keys, wanted)
    missing = wanted[rows < 0]
    if missing.size:
        raise UserError(
            f"{name} lacks {missing.size} of {wanted.size} rows that {asked_by} asks for; first {KEY}: "
            f"{first_of(missing)}. Complete it, or write split indexes that leave these rows out"
        )
    return rows


def check_same_text(
    one: Any, one_rows: np.ndarray, other: Any, other_rows: np.ndarray, column: str, what: str
) -> None:
    """Compare a text column of two joined sets on every row; skipped if either lacks the column.

    Equal keys with different texts mean that one set was rebuilt after the other was made. Raises
    :class:`UserError` naming both sets (``what``) and the first positions that differ.
    """
    import pyarrow.compute as pc

    if column not in one.column_names or column not in other.column_names:
        return
    left, right = (table.select_columns([column]).with_format("arrow") for table in (one, other))
    for start in range(0, one_rows.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        first, first_places = _read(left, one_rows[part], column)
        second, second_places = _read(right, other_rows[part], column)
        if len(first) == len(second) and bool((first_places == second_places).all()):
            differs = _flags(pc.not_equal(first, second))[first_places]
        else:
            differs = _flags(pc.not_equal(first.take(first_places), second.take(second_places)))
        if bool(differs.any()):
            keys = read_keys(one, what)[one_rows[start + np.flatnonzero(differs)]]
            raise UserError(
                f"{what}: the column {column!r} differs on rows with the same {KEY}, first {first_of(keys)}; "
                "one of the two was rebuilt, make the other again"
            )


def _flags(values: Any) -> np.ndarray:
    """Arrow booleans as numpy; null is false."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(values, False)).astype(bool)


def text_sizes(table: Any, rows: np.ndarray, column: str) -> np.ndarray:
    """Bytes of a text column on the given rows, float32 ``(rows,)``; only the offsets are read from disk."""
    import pyarrow.compute as pc

    view = table.select_columns([column]).with_format("arrow")
    parts = []
    for start in range(0, rows.size, _CHUNK):
        values, places = _read(view, rows[start : start + _CHUNK], column)
        parts.append(np.asarray(pc.fill_null(pc.binary_length(values), 0))[places])
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def _read(view: Any, rows: np.ndarray, column: str) -> tuple[Any, np.ndarray]:
    """A column of a set in Arrow format, and the places of ``rows`` in it.

    Rows that are close to each other are read as one slice, with the rows between them: gathering them one by one
    takes longer, and reads the texts where only their sizes are needed.
    """
    low, high = int(rows.min()), int(rows.max())
    if high - low < _SPREAD * rows.size:
        return view[low : high + 1].column(column), rows - low
    return view[rows].column(column), np.arange(rows.size)


def column_values(table: Any, column: str) -> Iterator[Any]:
    """Values of one column in order, read some at a time."""
    for batch in table.select_columns([column]).iter(batch_size=1000):
        yield from batch[column]


def column_numbers(table: Any, column: str) -> np.ndarray | None:
    """A column of numbers, ``(rows,)``, missing ones NaN; None if there is no such column."""
    if column not in table.column_names:
        return None
    found: np.ndarray = table.select_columns([column]).with_format("arrow")[:].column(column).to_numpy()
    return found


def first_of(values: np.ndarray | Sequence[Any]) -> str:
    """The first few values for a message."""
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    return shown + (", ..." if len(values) > _SHOWN else "")
