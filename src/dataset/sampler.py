"""Order of examples: batches of like length, shuffled, the same for every process and every resumed run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_BATCHES_PER_POOL = 50


class LengthGroupedSampler(Sampler[int]):
    """All indexes once per epoch, in a random order in which every ``batch_size`` neighbours are of like length.

    ``batch_size`` is that of all processes together, so that they wait little for each other. The order depends on
    the seed and the epoch (:meth:`set_epoch`) alone. With ``lengths`` of ``None`` the order is simply random.
    """

    def __init__(self, count: int, lengths: np.ndarray | None, batch_size: int, seed: int) -> None:
        self.count = count
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.count)
        if self.lengths is not None:
            order = self._group(order, generator)
        return iter(order.tolist())

    def _group(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Sort pools of fifty batches by length, shuffle their batches; only the epoch's last batch may be short."""
        assert self.lengths is not None
        pool_size = self.batch_size * _BATCHES_PER_POOL
        blocks: list[np.ndarray] = []
        for start in range(0, self.count, pool_size):
            pool = order[start : start + pool_size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            whole = pool.size // self.batch_size
            pool_blocks = np.split(pool, range(self.batch_size, whole * self.batch_size + 1, self.batch_size))
            blocks.extend(pool_blocks[place] for place in generator.permutation(whole))
            blocks.append(pool_blocks[whole])
        return np.concatenate(blocks) if blocks else order
