"""Estimate of what a run costs, extrapolated from a measured sample: the form that all dry runs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.files import write_json


@dataclass(frozen=True)
class Estimate:
    """Cost of a run. Nothing of it has been run but the sample.

    Attributes:
        rows: rows of the run.
        sampled: rows that were run to measure.
        bad: rows of the sample without a result.
        hours: hours of audio; None where clips are not used or their lengths not known.
        tokens: tokens that are written, or trained on.
        seconds: time of the whole run.
        workers: processes or engines that share it.
        device: what each of them uses, ``GPU`` or ``CPU``.
        devices: number of GPUs that are busy all that time; of processes on a CPU.
        token_kind, bad_kind: which tokens, and which rows of the sample, are counted.
        notes: further lines: a name and a text.
        cost: price of the run, if one is known.
    """

    rows: int
    sampled: int
    bad: int
    hours: float | None
    tokens: int
    seconds: float
    workers: int
    device: str = "CPU"
    devices: int = 1
    token_kind: str = "tokens to be written"
    bad_kind: str = "rows without an answer"
    notes: tuple[tuple[str, str], ...] = ()
    cost: float | None = None

    @property
    def device_hours(self) -> float:
        """GPU hours, or hours of CPU processes."""
        return self.devices * self.seconds / 3600

    def lines(self) -> list[str]:
        """Text for the log."""
        kind = "GPU hours" if self.device == "GPU" else "CPU hours (of processes)"
        return [
            f"rows: {self.rows}",
            *([] if self.hours is None else [f"audio: {self.hours:.2f} h"]),
            f"{self.token_kind}: about {self.tokens}",
            f"time: about {duration(self.seconds)} with {self.workers} worker(s), from {self.sampled} rows",
            f"{kind}: about {self.device_hours:.3g}",
            f"{self.bad_kind} in the sample: {self.bad} of {self.sampled}",
            *(f"{name}: {text}" for name, text in self.notes),
            *([] if self.cost is None else [f"cost: about {self.cost:.2f}"]),
        ]

    def as_dict(self) -> dict[str, Any]:
        """The estimate as it is written to a file."""
        return asdict(self) | {"device_hours": self.device_hours, "notes": dict(self.notes)}


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read best."""
    if seconds < 120:  # two of the next unit: "90 s" says more than "2 min", rounded as they are
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def price_of(device_hours: float, price_per_hour: float | None) -> float | None:
    """Cost of hours of a device; None where no price is given."""
    return None if price_per_hour is None else device_hours * price_per_hour


def report(
    estimates: Sequence[tuple[str, Estimate]], json_file: str | Path | None, show: Callable[[str], object]
) -> None:
    """Show estimates line by line under their titles, and write them to a JSON file by title if one is named."""
    for title, estimate in estimates:
        for line in ([title] if title else []) + estimate.lines():
            show(line)
    if json_file is not None:
        write_json(Path(json_file), {title or "run": estimate.as_dict() for title, estimate in estimates})
