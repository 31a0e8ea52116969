"""Order of examples: optimizer steps of a fixed number of clips, each cut into micro-batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Grouping = Literal["none", "within_step", "across_steps"]
_STEPS_PER_POOL = 50


@dataclass(frozen=True)
class StepPlan:
    """How the clips of one optimizer step are chosen and cut.

    Attributes:
        clips: clips of one micro-batch of one process (of all, where ``max_positions`` is given, the average).
        micro_batches: micro-batches of one process in a step, unless ``max_positions`` asks for other numbers.
        grouping: ``none``: clips in drawn order; ``within_step``: a step holds whatever clips are drawn, its
            micro-batches hold clips of like length; ``across_steps``: the steps do, too.
        max_positions: most positions (clips times the longest one's estimated length) of a micro-batch; a longer clip
            stands alone. ``None``: a fixed number of clips.
    """

    clips: int
    micro_batches: int = 1
    grouping: Grouping = "within_step"
    max_positions: int | None = None

    @property
    def step_clips(self) -> int:
        """Clips of one step of one process."""
        return self.clips * self.micro_batches


@dataclass(frozen=True)
class StepsDone:
    """``steps`` steps of ``rows`` rows each (all processes together) that were trained one after the other.

    ``across_steps`` is whether they were of like length, ``used`` the rows that were cut into such steps.
    """

    rows: int
    steps: int
    across_steps: bool
    used: int


class StepSampler:
    """Steps of one process out of ``world``: each a list of micro-batches of row numbers.

    The order of an epoch depends on the seed and the epoch (:meth:`set_epoch`) alone: a step holds the same
    ``plan.step_clips * world`` rows however many processes share it, and every process gets as many micro-batches as
    the others, of like length at the same place. As the loss is weighed by tokens over the whole step, the cut does
    not change it.

    ``shuffle`` false is for evaluation: the given order, or with ``lengths`` from long to short, and every row once;
    where rows are fewer than processes, those without a row of their own get row 0, not to be counted.

    ``drop_last`` leaves out the rows of an epoch's order that fill no micro-batch of every process.
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
    ) -> None:
        """``lengths`` float32 ``(count,)``: estimated positions of every row; needed unless grouping is none.

        Raises :class:`ValueError` without them.
        """
        if lengths is None and (plan.grouping != "none" or plan.max_positions):
            raise ValueError("batches of like length need the rows' lengths")
        batch = plan.clips * world
        # Fewer rows than one batch are trained on all the same: an epoch without steps would never end.
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
        self.epoch = 0
        self._resumed: tuple[int, tuple[StepsDone, ...]] = (-1, ())

    def go_on(self, epoch: int, done: Sequence[StepsDone]) -> tuple[int, int]:
        """Let an epoch begin behind the rows of the steps that are ``done``, whatever the size of those steps.

        Its iteration gives as many steps as any epoch; the first of them stand for rows that are done and are to be
        skipped. Returns the epoch to go on with, the next one if nothing is left, and that number of steps.
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
        """State that :meth:`go_on` needs after ``steps`` more steps of the present epoch."""
        before = self._before()
        if not before:
            return (StepsDone(self.step_rows, steps, self.across, self.used),)
        order, last = self._behind(*self._order(), before)
        if last is not None:
            return (*before[:-1], replace(last, steps=last.steps + steps))
        return (*before, StepsDone(self.step_rows, steps, self.across, self._whole(order.size)))

    def steps_of(self, rows: int, step_rows: int, world: int) -> int:
        """Steps into which so many rows are cut; a last one with fewer rows than processes is left out."""
        whole, rest = divmod(rows, step_rows)
        return whole + int(rest >= world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Steps of an epoch; when shuffled, a last one with fewer rows than processes is left out."""
        if not self.shuffle:
            return min(-(-self.count // self.step_rows), max(1, self.count // self.world))
        return self.steps_of(self.used, self.step_rows, self.world)

    def __iter__(self) -> Iterator[list[list[int]]]:
        steps = self._steps()
        for _ in range(len(self) - len(steps)):
            yield [[0]]  # of an epoch that goes on: skipped, never read
        for rows in steps:
            parts = [part.tolist() for part in self._cut(rows)[self.rank :: self.world]]
            yield [part or [0] for part in parts]

    def _steps(self) -> list[np.ndarray]:
        """Rows of every step in order, of an epoch that goes on of those left; only the last may be short."""
        if not self.shuffle:
            order = np.argsort(-self.lengths, kind="stable") if self.lengths is not None else np.arange(self.count)
            return np.array_split(order, len(self)) if self.count else []
        order, generator = self._order()
        order, last = self._behind(order, generator, self._before())  # mixes the steps that are done first
        used = self._whole(order.size)
        steps = self._split_order(order[:used], self.step_rows, self.across, generator)
        return steps[: self.steps_of(used, self.step_rows, self.world)][last.steps if last is not None else 0 :]

    def _order(self) -> tuple[np.ndarray, np.random.Generator]:
        """Rows of the epoch as drawn, and the generator that mixes steps of like length."""
        generator = np.random.default_rng([self.seed, self.epoch])
        return generator.permutation(self.count), generator

    def _before(self) -> tuple[StepsDone, ...]:
        """Part of this epoch that was done before the run went on."""
        epoch, done = self._resumed
        return done if epoch == self.epoch else ()

    def _behind(
        self, order: np.ndarray, generator: np.random.Generator, done: Sequence[StepsDone]
    ) -> tuple[np.ndarray, StepsDone | None]:
        """Rows that are left when the steps are taken away; the last part stays in if its steps are cut as ours."""
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
        if across and self.lengths is not None:
            return self._pool(order, step_rows, generator)
        return _split(order, step_rows)

    def _pool(self, order: np.ndarray, step_rows: int, generator: np.random.Generator) -> list[np.ndarray]:
        """Sort pools of fifty steps by length and shuffle the steps of each."""
        assert self.lengths is not None
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
        """Micro-batches of all processes; neighbours go to different processes."""
        most = max(1, rows.size // self.world)
        if self.lengths is None or self.plan.grouping == "none" and not self.plan.max_positions:
            return np.array_split(rows, self.world * self._fixed(rows.size, most))
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        if self.plan.max_positions is None:
            return np.array_split(rows, self.world * self._fixed(rows.size, most))
        return split_by_positions(rows, self.lengths[rows], self.plan.max_positions, self.world, most)

    def _fixed(self, rows: int, most: int) -> int:
        """Micro-batches of one process in a step of ``rows`` rows."""
        return min(most, -(-rows // (self.plan.clips * self.world)))


def _split(order: np.ndarray, step_rows: int) -> list[np.ndarray]:
    return [order[start : start + step_rows] for start in range(0, order.size, step_rows)]


def split_by_positions(
    rows: np.ndarray, lengths: np.ndarray, max_positions: int, world: int, most: int
) -> list[np.ndarray]:
    """Cut ``rows (n,)``, sorted by ascending ``lengths (n,)``, into few micro-batches of about the same work.

    Their number is the least multiple of ``world`` (at most ``most`` times) with which none has more than
    ``max_positions`` positions, padding included; with that number the largest is made as small as possible.
    """
    needed = len(_ends(lengths, max_positions))
    parts = world * min(most, -(-needed // world))
    low, high = float(lengths[-1]), float(max(max_positions, lengths[-1]))
    if needed > parts:  # rows are too few to give every process one more
        high = float(lengths[-1]) * rows.size
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if len(_ends(lengths, middle)) <= parts else (middle, high)
    ends = _ends(lengths, high)
    while len(ends) < parts:
        ends = _halve_largest(ends, lengths)
    return np.split(rows, sorted(ends)[1:])


def _ends(lengths: np.ndarray, positions: float) -> list[int]:
    """Starts of micro-batches of at most ``positions``, taken from the longest clip down."""
    starts, stop = [], lengths.size
    while stop > 0:
        start = max(0, stop - max(1, int(positions / max(float(lengths[stop - 1]), 1e-6))))
        starts.append(start)
        stop = start
    return starts


def _halve_largest(starts: list[int], lengths: np.ndarray) -> list[int]:
    bounds = [*sorted(starts), lengths.size]
    costs = [
        (stop - start) * lengths[stop - 1] if stop - start > 1 else -1.0
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]
    place = int(np.argmax(costs))
    return [*starts, (bounds[place] + bounds[place + 1]) // 2]
