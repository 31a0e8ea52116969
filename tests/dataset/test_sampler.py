"""The order of batches: every row once, the same for any number of processes, of like length."""

from __future__ import annotations

import numpy as np
import pytest

from src.dataset.sampler import ShardedBatches

LENGTHS = np.random.default_rng(0).uniform(1, 30, 1003).astype(np.float32)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once(lengths: np.ndarray | None, shuffle: bool) -> None:
    batches = list(ShardedBatches(1003, 8, lengths, shuffle=shuffle))
    assert sorted(sum(batches, [])) == list(range(1003))
    assert [len(batch) for batch in batches] == [8] * 125 + [3]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_same_global_batches(world: int) -> None:
    whole = list(ShardedBatches(1003, 6, LENGTHS, seed=5))
    shards = [list(ShardedBatches(1003, 6 // world, LENGTHS, 5, True, rank, world)) for rank in range(world)]
    assert {len(shard) for shard in shards} == {len(whole) if world <= 1003 % 6 else len(whole) - 1}
    for number, parts in enumerate(zip(*shards, strict=True)):
        assert sorted(sum(parts, [])) == sorted(whole[number])
        assert all(parts)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = ShardedBatches(100, 4, LENGTHS[:100], seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


def test_neighbours_are_of_like_length_but_batches_are_mixed() -> None:
    means = [LENGTHS[batch].mean() for batch in ShardedBatches(1000, 8, LENGTHS[:1000])]
    spreads = [np.ptp(LENGTHS[batch]) for batch in ShardedBatches(1000, 8, LENGTHS[:1000])]
    assert np.mean(spreads) < 2 and np.std(np.diff(means)) > 5
