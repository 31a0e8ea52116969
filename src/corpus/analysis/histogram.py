"""Statistics over sets of any size in flat memory: histograms, and columns read batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.dataset.tables import open_split

BINS = 40
_TAIL = 0.995  # a single clip of an hour would squeeze all others into the first bin
_NEAR = 1.25
"""The longest values are drawn, too, where they are this near to the rest."""
BATCH = 5_000
_BLOCK = 500
_REOPEN = 4
"""Batches after which a set is opened again."""


class RunningHistogram:
    """Counts of values in cells of equal width from zero; values beyond ``most`` are counted together.

    Sum and extremes are exact; quantiles are exact to a cell.
    """

    def __init__(self, step: float, most: float) -> None:
        self.step = step
        self.cells: NDArray[np.int64] = np.zeros(round(most / step) + 1, dtype=np.int64)
        self.n, self.total = 0, 0.0
        self.least, self.largest = math.inf, -math.inf

    def add(self, values: Sequence[float] | NDArray[Any]) -> None:
        """Count values ``(n,)``; negative ones and those that are no numbers are left out."""
        found = np.asarray(values, dtype=np.float64)
        found = found[np.isfinite(found) & (found >= 0)]
        if not found.size:
            return
        # 0.3 / 0.1 is a little less than 3, and belongs to cell 3 all the same
        places = np.minimum((found / self.step + 1e-9).astype(np.int64), self.cells.size - 1)
        self.cells += np.bincount(places, minlength=self.cells.size)
        self.n += int(found.size)
        self.total += float(found.sum())
        self.least = min(self.least, float(found.min()))
        self.largest = max(self.largest, float(found.max()))

    def between(self, low: float, high: float) -> int:
        """Number of values in ``[low, high]``, to a cell."""
        first, last = (min(round(end / self.step), self.cells.size) for end in (low, high))
        return int(self.cells[first : last + 1].sum())

    def quantile(self, share: float) -> float:
        """Lower end of the cell that holds the quantile, within the extremes."""
        place = int(np.searchsorted(np.cumsum(self.cells), max(1, math.ceil(share * self.n))))
        return min(max(place * self.step, self.least), self.largest)

    def result(self) -> dict[str, Any] | None:
        """Numbers and at most :data:`BINS` bins, for JSON; None if nothing was counted.

        ``n``, ``mean``, ``min``, ``p5``, ``median``, ``p95``, ``max``; ``edges`` ``(bins + 1,)`` and ``counts``
        ``(bins,)`` of the bins, which may end where all but the longest 0.5 % are held, and ``beyond``, the number of
        values behind them.
        """
        if not self.n:
            return None
        end = int(np.searchsorted(np.cumsum(self.cells), _TAIL * self.n)) + 1
        last = int(np.flatnonzero(self.cells)[-1]) + 1
        if last < _NEAR * end and last < self.cells.size:
            end = last
        per_bin = _round_width(end / BINS)
        bins = -(-end // per_bin)
        inside = np.zeros(bins * per_bin, dtype=np.int64)
        held = self.cells[: inside.size]
        inside[: held.size] = held
        counts = inside.reshape(bins, per_bin).sum(axis=1)
        return {
            "n": self.n,
            "mean": round(self.total / self.n, 3),
            "min": round(self.least, 3),
            "p5": round(self.quantile(0.05), 3),
            "median": round(self.quantile(0.5), 3),
            "p95": round(self.quantile(0.95), 3),
            "max": round(self.largest, 3),
            "edges": [round(place * per_bin * self.step, 6) for place in range(bins + 1)],
            "counts": counts.tolist(),
            "beyond": int(self.n - counts.sum()),
        }


def _round_width(cells: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    power = 10 ** math.floor(math.log10(max(1.0, cells)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= cells)


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

    Raises :class:`~src.common.errors.UserError` if there is no such set; ``label`` names it in the message.
    """
    from tqdm import tqdm

    def opened() -> Any:
        table = open_split(folder, split, label)
        return table.select_columns([name for name in columns if name in table.column_names]).with_format("arrow")

    table = opened()
    ranges = spread(len(table), limit)
    total = sum(stop - start for start, stop in ranges)
    with tqdm(desc=label, total=total, unit=" rows", unit_scale=True, leave=False, disable=total < BATCH) as bar:
        for number, (start, stop) in enumerate(ranges):
            # pages of a mapped file count as memory of the process as long as the file is open
            if number and number % _REOPEN == 0:
                table = opened()
            yield start, table[start:stop].to_pydict()
            bar.update(stop - start)
