"""Order of examples: optimizer steps of a fixed number of clips, each cut into micro-batches of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from src.dataset.stream_order import PlannedStep, StreamOrder

LengthGrouping = Literal["none", "within_step", "across_steps"]
_STEPS_PER_POOL = 50  # as transformers sorts by length (get_length_grouped_indices in trainer_pt_utils.py)


@dataclass(frozen=True)
class StepPlan:
    """How the clips of one optimizer step are chosen and cut.

    Attributes:
        clips: clips of one micro-batch of one process (of all, where ``max_positions`` is given, the average).
        micro_batches: micro-batches of one process in a step, unless ``max_positions`` asks for other numbers.
        grouping: ``none``: clips in drawn order; ``within_step``: clips of a step as drawn, those of a micro-batch of
            similar length; ``across_steps``: those of a step too.
        max_positions: most positions (clips times the longest one's estimated length) of a micro-batch; a longer clip
            is a micro-batch of its own. ``None``: a fixed number of clips.
        packed: micro-batches have no padding: their positions are the sum of the clips' lengths.
    """

    clips: int
    micro_batches: int = 1
    grouping: LengthGrouping = "within_step"
    max_positions: int | None = None
    packed: bool = False

    @property
    def step_clips(self) -> int:
        """Clips of one step of one process."""
        return self.clips * self.micro_batches


@dataclass(frozen=True)
class StepsDone:
    """``steps`` steps of ``rows`` rows each (all processes together) that were trained one after the other.

    ``across_steps`` says whether clips of similar length shared a step, ``used`` is the number of rows that were cut
    into such steps.
    """

    rows: int
    steps: int
    across_steps: bool
    used: int


class StepSampler:
    """Steps of one process out of ``world``: each a list of micro-batches of row numbers.

    The order of an epoch depends only on the seed and the epoch (:meth:`set_epoch`): a step has the same
    ``plan.step_clips * world`` rows for any number of processes, and all processes get the same number of
    micro-batches, of similar length at the same place. The loss is weighted by tokens over the whole step, so that
    the cut does not change it.

    ``shuffle`` false is for evaluation: the given order, or with ``lengths`` from long to short, and every row once.
    If there are fewer rows than processes, those without a row of their own get row 0, which must not be counted.

    ``drop_last`` leaves out the rows at the end of an epoch that do not fill a micro-batch of every process.
    ``number_epochs`` adds ``epoch * count`` to every row number, so that data workers know the epoch of a row.
    ``stream`` draws the order where rows are in shards; its steps name the shards to fetch for those that follow.
    """

    def __init__(
        self,
        count: int,
        plan: StepPlan,
        lengths: np.ndarray | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        number_epochs: bool = False,
        stream: StreamOrder | None = None,
    ) -> None:
        """``lengths`` float32 ``(count,)``: estimated positions of every row; required unless grouping is none."""
        if lengths is None and (plan.grouping != "none" or plan.max_positions):
            raise ValueError("batches of similar length need the rows' lengths")
        batch = plan.clips * world
        # Fewer rows than one batch are not dropped: a run of epochs without steps would never end.
        self._multiple = batch if drop_last and shuffle and count >= batch else 1
        self.used = self._whole(count)
        self.count = count
        self.plan = plan
        self.across = lengths is not None and plan.grouping == "across_steps"
        self.lengths = lengths
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.step_rows = plan.step_clips * world
        self.number_epochs = number_epochs
        self.stream = stream
        self.epoch = 0
        self._resumed: tuple[int, tuple[StepsDone, ...]] = (-1, ())

    def resume(self, epoch: int, done: Sequence[StepsDone]) -> tuple[int, int]:
        """Begin an epoch after the rows of the steps that are ``done``, which may have had another size.

        Its iteration gives as many steps as any epoch; the first of them stand for rows that are done and must be
        skipped. Returns the epoch to continue with (the next one if nothing is left) and the number of such steps.
        """
        self._resumed = (epoch, tuple(done))
        before, self.epoch = self.epoch, epoch
        left = len(self._steps())
        self.epoch = before
        if left == 0:
            self._resumed = (-1, ())
            return epoch + 1, 0
        return epoch, len(self) - left

    def done(self, steps: int) -> tuple[StepsDone, ...]:
        """State for :meth:`resume` after ``steps`` more steps of the current epoch."""
        before = self._before()
        if not before:
            return (StepsDone(self.step_rows, steps, self.across, self.used),)
        order, last = self._remaining(*self._order(), before)
        if last is not None:
            return (*before[:-1], replace(last, steps=last.steps + steps))
        return (*before, StepsDone(self.step_rows, steps, self.across, self._whole(order.size)))

    def steps_of(self, rows: int, step_rows: int, world: int) -> int:
        """Number of steps of ``rows`` rows; a last step with fewer rows than processes is left out."""
        whole, rest = divmod(rows, step_rows)
        return whole + int(rest >= world)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Steps of an epoch; if shuffled, without a last one of fewer rows than processes."""
        if not self.shuffle:
            return min(-(-self.count // self.step_rows), max(1, self.count // self.world))
        return self.steps_of(self.used, self.step_rows, self.world)

    def __iter__(self) -> Iterator[list[list[int]]]:
        steps = self._steps()
        first = self.epoch * self.count if self.number_epochs else 0
        for _ in range(len(self) - len(steps)):
            yield [[0]]  # stands for a step that is done: the Trainer skips it, and its rows are never read
        upcoming = self.stream.upcoming(steps) if self.stream is not None else itertools.repeat(())
        for rows, shards in zip(steps, upcoming, strict=False):
            parts = [(first + part).tolist() for part in self._cut(rows)[self.rank :: self.world]]
            step = PlannedStep(part or [first] for part in parts)
            step.upcoming = shards
            yield step

    def _steps(self) -> list[np.ndarray]:
        """Rows of every remaining step in order; only the last may be short."""
        if not self.shuffle:
            if self.stream is not None:
                order = self.stream.by_shard(self.lengths)
            elif self.lengths is not None:
                # longest first: a batch that does not fit into memory fails at once; stable: the same everywhere
                order = np.argsort(-self.lengths, kind="stable")
            else:
                order = np.arange(self.count)
            return np.array_split(order, len(self)) if self.count else []
        order, generator = self._order()
        # Draws from the generator for the steps that are done first, as the interrupted run did.
        order, last = self._remaining(order, generator, self._before())
        used = self._whole(order.size)
        steps = self._split_order(order[:used], self.step_rows, self.across, generator)
        return steps[: self.steps_of(used, self.step_rows, self.world)][last.steps if last is not None else 0 :]

    def _order(self) -> tuple[np.ndarray, np.random.Generator]:
        """Rows of the epoch as drawn, and the generator that shuffles steps of similar length."""
        # A list of both: their sum would give seed 1 in epoch 2 the order of seed 2 in epoch 1.
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.count) if self.stream is None else self.stream.draw(generator)
        return order, generator

    def _before(self) -> tuple[StepsDone, ...]:
        """Steps of this epoch that were done before the run was resumed."""
        epoch, done = self._resumed
        return done if epoch == self.epoch else ()

    def _remaining(
        self, order: np.ndarray, generator: np.random.Generator, done: Sequence[StepsDone]
    ) -> tuple[np.ndarray, StepsDone | None]:
        """Rows without those of the steps done; the last part is kept and returned if its steps are cut like ours."""
        for place, part in enumerate(done):
            same = (part.rows, part.across_steps, part.used) == (self.step_rows, self.across, self._whole(order.size))
            if same and place == len(done) - 1:
                return order, part
            steps = self._split_order(order[: part.used], part.rows, part.across_steps, generator)
            order = np.concatenate([*steps[part.steps :], order[part.used :]])
        return order, None

    def _whole(self, rows: int) -> int:
        return rows // self._multiple * self._multiple

    def _split_order(
        self, order: np.ndarray, step_rows: int, across: bool, generator: np.random.Generator
    ) -> list[np.ndarray]:
        """Steps of ``step_rows`` rows; ``across`` them, pools of fifty are sorted by length, then shuffled."""
        if not across or self.lengths is None:
            return _split(order, step_rows)
        steps: list[np.ndarray] = []
        pool_size = step_rows * _STEPS_PER_POOL
        for start in range(0, order.size, pool_size):
            pool = order[start : start + pool_size]
            parts = _split(pool[np.argsort(self.lengths[pool], kind="stable")], step_rows)
            whole = pool.size // step_rows
            steps.extend(parts[place] for place in generator.permutation(whole))
            steps.extend(parts[whole:])
        return steps

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """Micro-batches of all processes; adjacent ones go to different processes."""
        plan, most = self.plan, max(1, rows.size // self.world)
        if self.lengths is not None and (plan.grouping != "none" or plan.max_positions):
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            if plan.max_positions is not None:
                return split_by_positions(rows, self.lengths[rows], plan.max_positions, self.world, most, plan.packed)
        fixed = min(most, -(-rows.size // (plan.clips * self.world)))
        return np.array_split(rows, self.world * fixed)


def _split(order: np.ndarray, step_rows: int) -> list[np.ndarray]:
    return [order[start : start + step_rows] for start in range(0, order.size, step_rows)]


def split_by_positions(
    rows: np.ndarray, lengths: np.ndarray, max_positions: int, world: int, most: int, packed: bool = False
) -> list[np.ndarray]:
    """Cut ``rows (n,)``, sorted by ascending ``lengths (n,)``, into few micro-batches of similar cost.

    Their number is the least multiple of ``world`` (at most ``most`` times) for which none has more than
    ``max_positions`` positions, with padding unless they are ``packed``; for that number the largest is as small as
    possible.
    """
    needed = len(_ends(lengths, max_positions, packed))
    parts = world * min(most, -(-needed // world))
    low, high = float(lengths[-1]), float(max(max_positions, lengths[-1]))
    if needed > parts:  # there are too few rows to give every process one more
        high = float(lengths[-1]) * rows.size
    while high - low > 0.01 * high:  # closer is of no use: lengths are estimates
        middle = (low + high) / 2
        low, high = (low, middle) if len(_ends(lengths, middle, packed)) <= parts else (middle, high)
    ends = _ends(lengths, high, packed)
    while len(ends) < parts:  # every process needs the same number, as they exchange gradients after the last one
        ends = _halve_largest(ends, lengths, packed)
    return np.split(rows, sorted(ends)[1:])


def _ends(lengths: np.ndarray, positions: float, packed: bool) -> list[int]:
    """Starts of micro-batches of at most ``positions``, from the longest clip down."""
    starts, stop = [], lengths.size
    before = np.concatenate([[0.0], np.cumsum(lengths, dtype=np.float64)])
    while stop > 0:
        if packed:
            start = min(stop - 1, int(np.searchsorted(before, before[stop] - positions)))
        else:
            # the longest clip of a micro-batch decides how many fit; 1e-6: a length of 0 is no division by it
            start = max(0, stop - max(1, int(positions / max(float(lengths[stop - 1]), 1e-6))))
        starts.append(start)
        stop = start
    return starts


def _halve_largest(starts: list[int], lengths: np.ndarray, packed: bool) -> list[int]:
    bounds = [*sorted(starts), lengths.size]
    costs = [
        -1.0 if stop - start == 1 else lengths[start:stop].sum() if packed else (stop - start) * lengths[stop - 1]
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]
    place = int(np.argmax(costs))
    return [*starts, (bounds[place] + bounds[place + 1]) // 2]
