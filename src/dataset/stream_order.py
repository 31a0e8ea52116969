"""Order of an epoch over shards: nearly random, but only a few shards are in use at any time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHARDS_AHEAD = 2
"""How many shards are fetched before their rows are used."""


class PlannedStep(list[list[int]]):
    """Micro-batches of row numbers, and ``upcoming``: shards to fetch now for steps that follow."""

    upcoming: tuple[int, ...] = ()


@dataclass(frozen=True)
class StreamOrder:
    """Seeded order of rows that are stored in shards.

    Shards are drawn in random order and their rows are shuffled; then every row moves back by a random number of
    places, at most ``shuffle_rows``, as in a shuffle buffer of this size. In contrast to a buffer, the order depends
    on the generator alone, so that a resumed run needs no content of one, and any number of processes sees the same
    order.

    ``shards`` is the shard of every row, int64 ``(rows,)``; -1 for rows of sets on this machine, which are spread
    over the whole epoch.
    """

    shards: np.ndarray
    shuffle_rows: int

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Row numbers in the order of one epoch, int64 ``(rows,)``."""
        count = self.shards.size
        # A run that is resumed draws all of this again, so that the draws stay in this order.
        places = generator.uniform(0, count, count)
        streamed = np.flatnonzero(self.shards >= 0)
        if streamed.size:
            shards = self.shards[streamed]
            turn = generator.permutation(int(shards.max()) + 1)
            drawn = np.lexsort((generator.random(streamed.size), turn[shards]))
            steps = np.arange(streamed.size) + generator.uniform(0, self.shuffle_rows + 1, streamed.size)
            # scaled to all rows, so that those of sets on this machine are spread between them
            places[streamed[drawn]] = steps * (count / streamed.size)
        return np.argsort(places, kind="stable")

    def by_shard(self, lengths: np.ndarray | None) -> np.ndarray:
        """Row numbers shard by shard, each from long to short: the order of an evaluation, int64 ``(rows,)``."""
        return np.lexsort((np.zeros(self.shards.size) if lengths is None else -lengths, self.shards))

    def upcoming(self, steps: Sequence[np.ndarray]) -> Iterator[tuple[int, ...]]:
        """For each step the shards to fetch with it: those that the steps after it are the first to use."""
        used = np.unique(self.shards[self.shards >= 0]).size
        rows = max((step.size for step in steps), default=1)
        ahead = math.ceil(SHARDS_AHEAD * self.shards.size / max(1, used) / max(1, rows))
        seen: set[int] = set()
        reached = 0
        for place in range(len(steps)):
            fresh: dict[int, None] = {}
            while reached < min(len(steps), place + ahead + 1):
                found = np.unique(self.shards[steps[reached]]).tolist()
                fresh |= {shard: None for shard in found if shard >= 0 and shard not in seen}
                seen.update(found)
                reached += 1
            yield tuple(fresh)
