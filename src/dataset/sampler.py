"""Order of examples: batches of like length, shuffled, the same for every process and every resumed run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_BATCHES_PER_POOL = 50


class ShardedBatches(Sampler[list[int]]):
    """Batches of one process out of ``world``.

    The order of an epoch depends on the seed and the epoch (:meth:`set_epoch`) alone: a global batch of
    ``batch_size * world`` rows holds the same rows however many processes share it, and every process gets as many
    batches as the others. With ``lengths``, the rows of a global batch are of like length, so that processes wait
    little for each other; ``shuffle`` false keeps the given order, or with ``lengths`` goes from long to short.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        lengths: np.ndarray | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.count = count
        self.global_batch = batch_size * world
        self.lengths = lengths
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.global_batch)
        return whole + int(rest >= self.world)

    def __iter__(self) -> Iterator[list[int]]:
        for block in self._blocks()[: len(self)]:
            yield block[self.rank :: self.world].tolist()

    def _blocks(self) -> list[np.ndarray]:
        """Global batches in order; only the last may be short (it is left out where it has not a row for each)."""
        if self.shuffle:
            generator = np.random.default_rng([self.seed, self.epoch])
            order = generator.permutation(self.count)
            return self._split(order) if self.lengths is None else self._group(order, generator)
        order = np.arange(self.count) if self.lengths is None else np.argsort(-self.lengths, kind="stable")
        return self._split(order)

    def _split(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.global_batch] for start in range(0, order.size, self.global_batch)]

    def _group(self, order: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """Sort pools of fifty global batches by length and shuffle the batches of each."""
        assert self.lengths is not None
        blocks: list[np.ndarray] = []
        pool_size = self.global_batch * _BATCHES_PER_POOL
        for start in range(0, self.count, pool_size):
            pool = order[start : start + pool_size]
            parts = self._split(pool[np.argsort(self.lengths[pool], kind="stable")])
            whole = pool.size // self.global_batch
            blocks.extend(parts[place] for place in generator.permutation(whole))
            blocks.extend(parts[whole:])
        return blocks
