"""Rows that a performance program prints as a table and writes as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from src.common.run_record import write_json


@dataclass(frozen=True)
class BenchRow:
    """One measured quantity: ours and the straightforward way's on the same machine in the same run.

    ``unit`` with ``/s`` in it is a rate, where more is better; anything else is a cost. ``baseline`` is None where
    the straightforward way could not do it at all.
    """

    name: str
    unit: str
    ours: float
    baseline: float | None
    device: str

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.baseline is None:
            return None
        return self.ours / self.baseline if "/s" in self.unit else self.baseline / self.ours

    def as_dict(self) -> dict[str, object]:
        """The row as it is written."""
        return asdict(self) | {"ratio": self.ratio}


def bench_table(rows: Sequence[BenchRow]) -> str:
    """The rows as aligned text."""
    head = ("name", "unit", "ours", "baseline", "ratio", "device")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cells(row: BenchRow) -> tuple[str, ...]:
    baseline = "-" if row.baseline is None else f"{row.baseline:.4g}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return (row.name, row.unit, f"{row.ours:.4g}", baseline, ratio, row.device)


def write_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Write the rows as a JSON list."""
    write_json(path, [row.as_dict() for row in rows])
