"""Rows of a shard set as training examples, with the same interface as rows of sets on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.seeds import row_seed
from src.dataset.given_rows import TEXT_MODE
from src.dataset.response_rows import BYTES_PER_TOKEN, TOKENS_PER_SECOND, ResponseRow, rows_of_split
from src.dataset.shard_index import NO_TARGET
from src.dataset.shard_set import BrokenRowError, ShardSet


def target_of(texts: Mapping[str, Any], mode: str) -> Mapping[str, Any]:
    """``target``, ``context``, ``system`` and ``cut`` of a row in one mode.

    In shards of other programs a row has its text itself, a given answer. Raises KeyError if it has no such target.
    """
    if "targets" in texts or mode != TEXT_MODE:
        return texts["targets"][mode]
    return {"target": texts["text"], "context": texts.get("prompt"), "system": texts.get("system")}


class ShardRows:
    """Examples of one shard set and mode. Rows without a target in this mode are left out.

    Attributes:
        places: number of every row in the set, ascending, int64 ``(rows,)``.
        shards: its shard, int64 ``(rows,)``.
    """

    def __init__(
        self,
        stored: ShardSet,
        mode: str,
        fraction: float = 1.0,
        random: bool = False,
        split: str = "train",
        return_audio: bool = True,
        prompt: str | None = None,
    ) -> None:
        """The arguments are those of :class:`src.dataset.response_rows.ResponseRows` and of given rows.

        Raises :class:`UserError` if the set has another split or no targets of this mode.
        """
        index = stored.index
        self.stored, self.mode, self.return_audio, self.prompt = stored, mode, return_audio, prompt
        self.name = index.address
        if index.split != split:
            raise UserError(f"{index.address} has rows of split {index.split!r}, {split!r} is asked for")
        if mode not in index.sizes:
            raise UserError(f"{index.address} has no targets for {mode}; it has {', '.join(index.sizes)}")
        self.places = rows_of_split(np.flatnonzero(index.sizes[mode] != NO_TARGET), fraction, random)
        if not self.places.size:
            raise UserError(f"{index.address} has no row for {mode}")
        self._starts = index.starts
        self.shards = np.searchsorted(self._starts, self.places, side="right") - 1

    def __len__(self) -> int:
        return int(self.places.size)

    def __getitem__(self, index: int) -> ResponseRow:
        shard = int(self.shards[index])
        place = int(self.places[index] - self._starts[shard])
        row = self.stored.row(shard, place)
        key = str(row.texts.get("key") or f"{self.name}/{int(self.places[index])}")
        given = self.mode == TEXT_MODE
        if self.return_audio and row.clip is None:
            raise BrokenRowError(key, "has no clip")
        try:
            target = target_of(row.texts, self.mode)
            context = self.prompt if given and self.prompt is not None else str(target.get("context") or "")
            return ResponseRow(
                key=key,
                audio={"bytes": row.clip, "path": row.clip_name} if self.return_audio else None,
                context=context,
                audio_description=str(row.texts.get("audio_description") or ""),
                target=str(target["target"] or ""),
                system=str(target.get("system") or ""),
                given=given,
                spoken_question=bool(row.texts.get("spoken_question")),
                cut=bool(target.get("cut")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenRowError(
                key, f"has no target for {self.mode} ({error!r}), though the index says so"
            ) from error

    def replacement(self, index: int, attempt: int, key: str) -> int:
        """Another row of the same shard, which is at hand, in place of one that cannot be used."""
        low, high = np.searchsorted(self.shards, [self.shards[index], self.shards[index] + 1])
        return int(low) + row_seed(attempt, key) % int(high - low)

    def without_description(self) -> int:
        """Number of rows whose clip has no description in words."""
        return int((~self.stored.index.described[self.places]).sum())

    def lengths(self) -> np.ndarray:
        """Estimated tokens of every example, float32 ``(rows,)``, from durations and text sizes."""
        total = self.stored.index.sizes[self.mode][self.places] / BYTES_PER_TOKEN
        if self.return_audio:
            total = total + self.stored.index.seconds[self.places] * TOKENS_PER_SECOND
        return total.astype(np.float32)

    def seconds(self) -> np.ndarray | None:
        """Length of every clip in seconds, float32 ``(rows,)``; None without audio."""
        return self.stored.index.seconds[self.places] if self.return_audio else None
