"""Mixtures of response sets, and the ``dataset`` group of a training configuration."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.common.errors import UserError
from src.common.paths import data_root, raw_dir
from src.common.seeds import row_seed
from src.dataset.given_rows import TEXT_MODE, GivenRows
from src.dataset.remote_files import FileCache, is_local
from src.dataset.response_rows import CONTEXT_MODES, ResponseRow, ResponseRows, missing_folders
from src.dataset.shard_index import INDEX_FILE, is_shard_set, read_index
from src.dataset.shard_rows import ShardRows
from src.dataset.shard_set import ShardSet
from src.dataset.stream_order import SHARDS_AHEAD, StreamOrder

TargetsEnd = Literal["none", "end_of_turn"]
"""The end of a target: nothing, as published, or the token with which the language model ends its turn."""


@dataclass(frozen=True)
class StreamConfig:
    """How rows of shard sets are read.

    ``shuffle_rows``: places by which a row may move in the order of its shards, as with a shuffle buffer of this
    size.
    ``cache_dir``: folder on this machine for shards in use (``None``: ``shard_cache`` in the data root), which never
    has more than ``cache_gb`` gigabytes of them.
    """

    shuffle_rows: int = 10_000
    cache_dir: str | None = None
    cache_gb: float = 20.0

    def __post_init__(self) -> None:
        if self.shuffle_rows < 0:
            raise ValueError(f"shuffle_rows is {self.shuffle_rows}, expected 0 or more")
        if self.cache_gb <= 0:
            raise ValueError(f"cache_gb is {self.cache_gb}, expected more than 0")

    def cache(self) -> FileCache:
        """The folder that keeps shards."""
        folder = data_root() / "shard_cache" if self.cache_dir is None else Path(self.cache_dir)
        return FileCache(folder, int(self.cache_gb * 1e9))


@dataclass(frozen=True)
class MixtureConfig:
    """One set of examples.

    ``rows`` are ``[response_folder, WithContext | NoContext, fraction, random]``, or ``[raw_set, Text, …]`` for
    answers that are given, with ``prompt`` in place of the rows' own; the address of a shard set takes the place of
    either folder (:mod:`src.dataset.shard_index`), and ``stream`` says how it is read. ``limit`` caps the whole set
    (``None``: no cap); ``return_audio`` false gives the text-only control.
    """

    rows: list[list[Any]]
    split: str = "train"
    limit: int | None = None
    return_audio: bool = True
    prompt: str | None = None
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) == 4 and isinstance(row[2], (int, float)) and not 0 < row[2] <= 1:
                raise ValueError(
                    f"rows[{number}]: {row[0]} has fraction {row[2]}, expected more than 0 and at most 1"
                )
            kinds: list[Any] = [str, str, (int, float), bool]
            fits = len(row) == 4 and all(map(isinstance, row, kinds))
            if not fits or row[1] not in (*CONTEXT_MODES, TEXT_MODE):
                raise ValueError(
                    f"rows[{number}]: got {row!r}, expected [response_folder, {' or '.join(CONTEXT_MODES)}, "
                    f"fraction, random], or [raw_set, {TEXT_MODE}, fraction, random]"
                )


@dataclass(frozen=True)
class TrainDatasetConfig:
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


def present_only(config: TrainDatasetConfig) -> tuple[TrainDatasetConfig, tuple[str, ...]]:
    """The configuration without the sets that are not on this machine, and the names of those left out.

    Raises :class:`UserError` naming every folder that is missing, unless ``skip_missing``; and if nothing is left to
    train on.
    """
    missing = {
        folder: lacking
        for mixture in (config.train, *config.eval.values())
        for folder, mode, *_ in mixture.rows
        if (lacking := _missing(folder, mode))
    }
    if not missing:
        return config, ()
    if not config.skip_missing:
        listed = "; ".join(f"{folder} ({', '.join(map(str, lacking))})" for folder, lacking in missing.items())
        total = len({row[0] for mixture in (config.train, *config.eval.values()) for row in mixture.rows})
        raise UserError(
            f"dataset {config.name}: {len(missing)} of {total} response sets lack folders: {listed}. Build them "
            "(README), set ALARM_DATA_ROOT to their folder, or leave them out with dataset.skip_missing=true"
        )

    def kept(mixture: MixtureConfig) -> MixtureConfig:
        return replace(mixture, rows=[row for row in mixture.rows if row[0] not in missing])

    evaluation = {name: kept(mixture) for name, mixture in config.eval.items() if kept(mixture).rows}
    groups = {group: [name for name in members if name in evaluation] for group, members in config.groups.items()}
    train = kept(config.train)
    if config.train.rows and not train.rows:
        raise UserError(f"dataset {config.name}: none of its response sets is on this machine")
    return replace(config, train=train, eval=evaluation, groups=groups), tuple(missing)


def _missing(name: str, mode: str) -> list[Path]:
    if is_shard_set(name):  # one behind an address is looked for when it is opened
        return [Path(name)] if is_local(name) and not (Path(name) / INDEX_FILE).is_file() else []
    if mode != TEXT_MODE:
        return missing_folders(name)
    return [] if raw_dir(name).is_dir() else [raw_dir(name)]


Rows = ResponseRows | GivenRows | ShardRows


class Mixture:
    """Several sets of rows in list order as one sequence of rows, neither shuffled nor copied.

    Attributes:
        order: how an epoch goes through the rows where some of them are in shards; ``None`` where none is.
    """

    def __init__(self, parts: Sequence[Rows], limit: int | None = None, stream: StreamConfig | None = None) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        total = int(self._ends[-1]) if self.parts else 0
        self._length = total if limit is None else min(limit, total)
        # Shards are numbered through all sets: each set -> the number of its first one.
        self._first_shard: dict[ShardSet, int] = {}
        shards = 0
        for part in self.parts:
            if isinstance(part, ShardRows) and part.stored not in self._first_shard:
                self._first_shard[part.stored] = shards
                shards += len(part.stored.index.shards)
        self.order = self._stream_order(stream or StreamConfig())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ResponseRow:
        """Raises :class:`src.dataset.shard_set.BrokenRowError` for a row of a shard that cannot be read."""
        part, start = self._part(index)
        return self.parts[part][index - start]

    def _part(self, index: int) -> tuple[int, int]:
        """Place of a row's part, and the number of that part's first row."""
        if not 0 <= index < self._length:
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, int(self._ends[part - 1]) if part else 0

    def replacement(self, index: int, attempt: int, key: str) -> int:
        """Number of the row that is tried in place of one that cannot be used.

        The choice depends on the unusable row's key, so that every process and every resumed run makes the same one.
        """
        part, start = self._part(index)
        rows = self.parts[part]
        if isinstance(rows, ShardRows):
            return min(start + rows.replacement(index - start, attempt, key), self._length - 1)
        return row_seed(attempt, key) % self._length

    def first_rows(self, mode: str, count: int) -> list[int]:
        """Positions of the first ``count`` rows of a context mode, or of all if there are fewer."""
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

    def seconds(self) -> np.ndarray | None:
        """Seconds of every clip, float32 ``(rows,)``: NaN in sets that do not state it; None without audio."""
        found = [part.seconds() for part in self.parts]
        if all(seconds is None and not part.return_audio for seconds, part in zip(found, self.parts, strict=True)):
            return None
        known = zip(found, self.parts, strict=True)
        filled = [np.full(len(part), np.nan, np.float32) if each is None else each for each, part in known]
        return np.concatenate(filled)[: self._length]

    def fetch_ahead(self, shards: Sequence[int]) -> None:
        """Start to fetch shards, numbered as in :attr:`order`."""
        for stored, first in self._first_shard.items():
            last = first + len(stored.index.shards)
            stored.fetch_ahead([shard - first for shard in shards if first <= shard < last])

    def digest(self) -> str | None:
        """Checksum of the order's shards and settings, for resuming; ``None`` where no rows are in shards."""
        if self.order is None:
            return None
        known = [stored.index.digest for stored in self._first_shard]
        rows = [[part.name, part.mode, len(part)] for part in self.parts]
        text = json.dumps([known, rows, self._length, self.order.shuffle_rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _stream_order(self, stream: StreamConfig) -> StreamOrder | None:
        if not self._first_shard:
            return None
        shards = [
            part.shards + self._first_shard[part.stored] if isinstance(part, ShardRows) else np.full(len(part), -1)
            for part in self.parts
        ]
        order = StreamOrder(np.concatenate(shards)[: self._length].astype(np.int64), stream.shuffle_rows)
        sizes = [shard.size for stored in self._first_shard for shard in stored.index.shards]
        rows = self._length / len(sizes)
        in_use = math.ceil(stream.shuffle_rows / max(1.0, rows)) + 1 + SHARDS_AHEAD
        needed = sum(sorted(sizes)[-in_use:])
        remote = any(not is_local(stored.index.address_of(0)) for stored in self._first_shard)
        if remote and needed > stream.cache_gb * 1e9:
            raise UserError(
                f"stream.cache_gb={stream.cache_gb:g}: shuffle_rows={stream.shuffle_rows} uses {in_use} shards at a "
                f"time, up to {needed / 1e9:.3g} GB of them; raise the one, lower the other, or write smaller shards"
            )
        return order


def open_mixture(config: MixtureConfig) -> Mixture:
    """Open and join all rows of a mixture. Raises :class:`UserError` for the first set that does not fit."""
    parts: list[Rows] = []
    cache, stored = config.stream.cache(), dict[str, ShardSet]()
    for folder, mode, fraction, random in config.rows:
        chosen = float(fraction), bool(random), config.split, config.return_audio
        if is_shard_set(folder):
            if folder not in stored:
                stored[folder] = ShardSet(read_index(folder), cache)
            parts.append(ShardRows(stored[folder], str(mode), *chosen, prompt=config.prompt))
        elif mode == TEXT_MODE:
            parts.append(GivenRows(str(folder), *chosen, prompt=config.prompt))
        else:
            parts.append(ResponseRows(str(folder), str(mode), *chosen))
    return Mixture(parts, config.limit, config.stream)
