"""Mixtures: rows ``[response_folder, mode, fraction, random]`` read one after the other, and the dataset group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.dataset.response_rows import CONTEXT_MODES, ResponseRows, Row, missing_folders


@dataclass(frozen=True)
class MixtureConfig:
    """One set of examples.

    ``rows`` are ``[response_folder, WithContext | NoContext, fraction, random]``; ``limit`` caps the whole set
    (``None``: no cap); ``return_audio`` false gives the text-only control.
    """

    rows: list[list[Any]]
    split: str = "train"
    limit: int | None = None
    return_audio: bool = True

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            _check_row(number, row)


@dataclass(frozen=True)
class DatasetConfig:
    """The ``dataset`` group: what to train on, named evaluation sets, and groups of those for mean losses.

    ``skip_missing`` leaves out sets whose folders are not on this machine.
    """

    name: str
    train: MixtureConfig
    eval: dict[str, MixtureConfig] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    skip_missing: bool = False

    def __post_init__(self) -> None:
        for group, members in self.groups.items():
            unknown = [member for member in members if member not in self.eval]
            if unknown:
                raise ValueError(f"group {group!r} names {', '.join(unknown)}, not among the evaluation sets")


def _check_row(number: int, row: list[Any]) -> None:
    kinds: tuple[type | tuple[type, ...], ...] = (str, str, (int, float), bool)
    if len(row) == 4 and isinstance(row[2], (int, float)) and not 0 < row[2] <= 1:
        raise ValueError(f"rows[{number}]: {row[0]} has fraction {row[2]}, expected more than 0 and at most 1")
    fits = len(row) == 4 and all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))
    if not fits or row[1] not in CONTEXT_MODES:
        raise ValueError(
            f"rows[{number}]: got {row!r}, expected [response_folder, {' or '.join(CONTEXT_MODES)}, fraction, random]"
        )


def present_only(config: DatasetConfig) -> tuple[DatasetConfig, tuple[str, ...]]:
    """The configuration without the sets that are not on this machine, and the names of those left out.

    Raises :class:`UserError` naming every folder that is missing, unless ``skip_missing``; and if nothing is left to
    train on.
    """
    missing = {
        folder: lacking
        for mixture in (config.train, *config.eval.values())
        for folder, *_ in mixture.rows
        if (lacking := missing_folders(folder))
    }
    if not missing:
        return config, ()
    if not config.skip_missing:
        listed = "; ".join(f"{folder} ({', '.join(map(str, lacking))})" for folder, lacking in missing.items())
        total = len({row[0] for mixture in (config.train, *config.eval.values()) for row in mixture.rows})
        raise UserError(
            f"dataset {config.name}: {len(missing)} of {total} response sets lack folders: {listed}. Build them "
            "(README), set ALARM_DATA_ROOT to where they lie, or leave them out with dataset.skip_missing=true"
        )

    def kept(mixture: MixtureConfig) -> MixtureConfig:
        return replace(mixture, rows=[row for row in mixture.rows if row[0] not in missing])

    evaluation = {name: kept(mixture) for name, mixture in config.eval.items() if kept(mixture).rows}
    groups = {group: [name for name in members if name in evaluation] for group, members in config.groups.items()}
    train = kept(config.train)
    if config.train.rows and not train.rows:
        raise UserError(f"dataset {config.name}: none of its response sets is on this machine")
    return replace(config, train=train, eval=evaluation, groups=groups), tuple(missing)


class Mixture:
    """Several :class:`ResponseRows` in list order as one sequence of rows. Nothing is shuffled or copied."""

    def __init__(self, parts: Sequence[ResponseRows], limit: int | None = None) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        total = int(self._ends[-1]) if self.parts else 0
        self._length = total if limit is None else min(limit, total)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self._length:
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return self.parts[part][index - start]

    def first_rows(self, mode: str, count: int) -> list[int]:
        """Positions of the first ``count`` rows of a context mode, those that there are."""
        found: list[int] = []
        for part, end in zip(self.parts, self._ends.tolist(), strict=True):
            if part.mode == mode and len(found) < count:
                start = end - len(part)
                found += range(start, min(end, self._length, start + count - len(found)))
        return found

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every example, float32 ``(rows,)``."""
        parts = [part.lengths() for part in self.parts]
        return np.concatenate(parts)[: self._length] if parts else np.zeros(0, np.float32)


def open_mixture(config: MixtureConfig) -> Mixture:
    """Open and join all rows of a mixture. Raises :class:`UserError` for the first set that does not fit."""
    parts = [
        ResponseRows(str(folder), str(mode), float(fraction), bool(random), config.split, config.return_audio)
        for folder, mode, fraction, random in config.rows
    ]
    return Mixture(parts, config.limit)
