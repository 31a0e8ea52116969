"""The order of steps: every row once, the same for any number of processes, micro-batches of similar length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from src.dataset.sampler import LengthGrouping, StepPlan, StepSampler, split_by_positions

LENGTHS = np.random.default_rng(0).uniform(1, 30, 1003).astype(np.float32)
PLANS = [
    StepPlan(8, grouping="none"),
    StepPlan(2, 4, "within_step"),
    StepPlan(4, 2, "across_steps"),
    StepPlan(4, 2, "within_step", max_positions=60),
    StepPlan(4, 2, "none", max_positions=25),
]


def flat(step: list[list[int]]) -> list[int]:
    """All rows of a step."""
    return list(itertools.chain.from_iterable(step))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once(plan: StepPlan, shuffle: bool) -> None:
    sampler = StepSampler(1003, plan, LENGTHS, shuffle=shuffle)
    steps = list(sampler)
    assert len(steps) == len(sampler) == 126
    assert sorted(flat(flat(step) for step in steps)) == list(range(1003))
    if shuffle:
        assert [len(flat(step)) for step in steps] == [8] * 125 + [3]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_same_steps(plan: StepPlan, world: int) -> None:
    whole = list(StepSampler(1003, plan, LENGTHS, seed=5))
    part = StepPlan(8 // world, 1, plan.grouping, plan.max_positions)
    shards = [list(StepSampler(1003, part, LENGTHS, 5, True, rank, world)) for rank in range(world)]
    assert {len(shard) for shard in shards} == {len(whole) - (world > 1003 % 8)}
    for number, parts in enumerate(zip(*shards, strict=True)):
        assert sorted(flat(flat(step) for step in parts)) == sorted(flat(whole[number]))
        assert len({len(step) for step in parts}) == 1 and all(all(batch) for batch in parts)


@pytest.mark.parametrize("world", [1, 3])
def test_micro_batches_hold_what_they_may(world: int) -> None:
    plan = StepPlan(8, 4, max_positions=100)
    for rank in range(world):
        for step in StepSampler(960, plan, LENGTHS[:960], rank=rank, world=world):
            for batch in step:
                assert len(batch) * LENGTHS[batch].max() <= 100.5


def test_few_micro_batches_of_about_the_same_work() -> None:
    lengths = np.sort(LENGTHS[:64])
    parts = split_by_positions(np.arange(64), lengths, 200, 2, 32)
    work = [len(part) * lengths[part].max() for part in parts]
    assert len(parts) % 2 == 0 and max(work) <= 200
    assert len(parts) <= 2 * np.ceil(lengths.sum() / 200 / 2) + 2
    assert min(work) > 0.4 * max(work)
    assert [len(part) for part in split_by_positions(np.arange(5), lengths[-5:], 1, 4, 1)] != []


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[list[int]]]:
        sampler = StepSampler(100, StepPlan(4), LENGTHS[:100], seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1) and order(1, 0) != order(2, 0)


@pytest.mark.parametrize(("grouping", "spread"), [("within_step", 5.0), ("across_steps", 1.0), ("none", 15.0)])
def test_like_lengths(grouping: LengthGrouping, spread: float) -> None:
    steps = list(StepSampler(960, StepPlan(4, 8, grouping), LENGTHS[:960]))
    spreads = [np.ptp(LENGTHS[batch]) for step in steps for batch in step]
    means = [LENGTHS[flat(step)].mean() for step in steps]
    assert np.mean(spreads) < 1.5 * spread
    assert (
        np.std(means) > 3 if grouping == "across_steps" else np.std(means) < 3
    )  # what a step holds is drawn by chance


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 33])
def test_evaluation_has_every_row_once_on_any_number_of_processes(count: int) -> None:
    shards = [
        list(StepSampler(count, StepPlan(1), LENGTHS[:count], shuffle=False, rank=rank, world=4)) for rank in range(4)
    ]
    assert len({len(shard) for shard in shards}) == 1
    own = [row for rank, shard in enumerate(shards) if rank < count for step in shard for row in flat(step)]
    assert sorted(own) == list(range(count))


def test_lengths_are_asked_for() -> None:
    with pytest.raises(ValueError, match="need the rows' lengths"):
        StepSampler(3, StepPlan(1))
