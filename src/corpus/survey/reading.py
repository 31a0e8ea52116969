"""Columns of saved sets, batch by batch; memory stays flat over any number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.dataset.tables import open_split

BATCH = 5_000
_BLOCK = 500
_REOPEN = 4
"""Batches after which a set is opened anew: pages of a mapped file count as memory as long as it is open."""


def spread(rows: int, limit: int | None) -> list[tuple[int, int]]:
    """Ranges of rows to read: all, or ``limit`` rows in blocks that are spread evenly over the set."""
    if limit is None or limit >= rows:
        return [(start, min(start + BATCH, rows)) for start in range(0, rows, BATCH)]
    size = min(_BLOCK, limit)
    count = -(-limit // size)
    starts = [number * rows // count for number in range(count)]
    return [(start, min(start + size, start + limit - number * size)) for number, start in enumerate(starts)]


def column_batches(
    folder: Path, split: str, columns: Sequence[str], limit: int | None, label: str
) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """First row and the columns of every batch, with a progress bar; columns that the set lacks are left out.

    Raises :class:`~src.common.errors.UserError` if there is no such set; ``label`` says what was looked for.
    """
    from tqdm import tqdm

    table = _open(folder, split, columns, label)
    ranges = spread(len(table), limit)
    total = sum(stop - start for start, stop in ranges)
    with tqdm(desc=label, total=total, unit=" rows", unit_scale=True, leave=False, disable=total < BATCH) as bar:
        for number, (start, stop) in enumerate(ranges):
            if number and number % _REOPEN == 0:
                table = _open(folder, split, columns, label)
            yield start, table[start:stop].to_pydict()
            bar.update(stop - start)


def _open(folder: Path, split: str, columns: Sequence[str], label: str) -> Any:
    table = open_split(folder, split, label)
    return table.select_columns([name for name in columns if name in table.column_names]).with_format("arrow")
