"""``max_batch_positions=auto``: the largest micro-batch that fits, found by trying steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object

from src.common.errors import UserError
from src.common.files import write_json
from src.common.log import get_logger
from src.model.tensor_files import read_json
from src.training.config import BatchSearchConfig
from src.training.device_memory import GIB, Trial, check_device, free_memory, held_memory, row_lengths, try_step

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

log = get_logger(__name__)
FILE = "batch_positions.json"
_CLOSE = 1.05
"""The search ends when the next size would be less than so many times the best."""
_CAUTION = 1.25
"""Growth of memory and time from one trial to the next is taken as so many times the measured one."""


@dataclass(frozen=True)
class Found:
    """Result of a search: the size, its peak in bytes, the number of trials and why none larger was taken."""

    positions: int
    peak: int
    trials: int
    reason: str


def search(
    attempt: Callable[[int], Trial | None],
    least: int,
    most: int,
    base: tuple[int, int],
    budget: int,
    seconds: float,
    agreed: Callable[[int], int] = int,
) -> Found | None:
    """The largest size from ``least`` to ``most`` that fits: doubled until one does not, then bisected.

    ``attempt`` tries a size; None means that it did not fit. After the first, no size is tried of which the trials
    before foresee more than ``budget`` bytes or more than is left of ``seconds``. ``base`` is a size below ``least``
    and its peak. ``agreed`` gives the least of the values of all processes. None if not even ``least`` fits.
    """
    began = time.perf_counter()
    done: dict[int, Trial] = {}
    best, above, reason, trials = 0, most + 1, "the largest size to try", 0
    while True:
        wanted = least if not best else min(2 * best, most) if above > most else (best + above) // 2
        size = agreed(min(wanted, _reach(done, base, budget, most)) if done else wanted)
        if best and (size <= best or size < most and size < _CLOSE * best):
            reason = "memory" if size < most else reason
            break
        left = seconds - (time.perf_counter() - began)
        foreseen = _CAUTION * done[max(done)].seconds * size / max(done) if done else -math.inf
        if not agreed(int(foreseen <= left)):
            reason = "time is up"
            break
        found, trials = attempt(size), trials + 1
        if found is not None:
            done[size] = found
        if agreed(int(found is not None and found.peak <= budget)):
            best = size
        elif not best:
            return None
        else:
            above = size
    return Found(best, done[best].peak, trials, reason)


def _reach(done: Mapping[int, Trial], base: tuple[int, int], budget: int, most: int) -> int:
    """Largest size whose peak is foreseen within the budget, with caution, from the largest size tried."""
    large = max(done)
    others = [base, *((size, trial.peak) for size, trial in done.items() if size < large)]
    growth = max((done[large].peak - peak) / (large - size) for size, peak in others)
    if growth <= 0:
        return most
    return min(most, int(large + (budget - done[large].peak) / (_CAUTION * growth)))


def find_batch_positions(trainer: AlarmTrainer, config: BatchSearchConfig, resumed: bool) -> int:
    """The size for this run, the same in all processes; a resumed run uses the one that it has found before.

    Micro-batches of the longest row and of the shortest (most clips for the encoders) are tried. Raises
    :class:`UserError` if not even one clip fits.
    """
    check_device(trainer, "max_batch_positions=auto")
    path = Path(trainer.args.output_dir) / FILE
    setting = _setting(trainer)
    # The first process's: only it is sure to see the file that it has written.
    (known,) = broadcast_object_list([_read(path, setting)]) if resumed else (None,)
    if known is not None:
        log.info("max_batch_positions=auto: %d, as this run has found before (%s)", known, path)
        return known
    longest, long, shortest, short = row_lengths(trainer)
    clips = trainer.plan.step_clips
    budget = free_memory(trainer.args.device)
    if config.memory_gib is not None:
        budget = min(budget, int(config.memory_gib * GIB))

    def attempt(positions: int) -> Trial | None:
        tried = []
        for row, length in ((shortest, short), (longest, long)):
            found = try_step(trainer, [row] * max(1, min(clips, positions // length)))
            if found is None:
                return None
            tried.append(found)
        return Trial(max(one.peak for one in tried), sum(one.seconds for one in tried))

    began = time.perf_counter()
    small = try_step(trainer, [shortest]) if short < long else None
    base = (0, held_memory(trainer.args.device)) if small is None else (short, small.peak)
    most = max(long, min(clips * long, config.positions or clips * long))
    found = search(attempt, long, most, base, budget, config.seconds, lambda value: min(gather_object([value])))
    if found is None:
        raise UserError(
            f"max_batch_positions=auto: one clip of {long} positions does not fit in the {budget / GIB:.2f} GiB that "
            "training may have; set training_args.gradient_checkpointing=true, model_max_length to less, or raise "
            "batch_search.memory_gib if it is given"
        )
    if trainer.is_world_process_zero():
        log.info(
            "max_batch_positions=auto: %d positions (%s; peak %.2f of %.2f GiB, %d trials, %.0f s)",
            *(found.positions, found.reason, found.peak / GIB, budget / GIB),
            *(found.trials, time.perf_counter() - began),
        )
        write_json(path, {"max_batch_positions": found.positions, "peak": found.peak, "setting": setting})
    return found.positions


def _setting(trainer: AlarmTrainer) -> dict[str, Any]:
    """Settings on which the memory of a micro-batch depends; with another of these a resumed run searches again."""
    device = trainer.args.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "llm": trainer.model_config.llm,
        "clips": trainer.plan.step_clips,
        "packing": trainer.plan.packed,
        "bf16": bool(trainer.args.bf16),
        "gradient_checkpointing": bool(trainer.args.gradient_checkpointing),
        "lora": None if trainer.model_config.lora is None else trainer.model_config.lora.r,
    }


def _read(path: Path, setting: dict[str, Any]) -> int | None:
    """Size that this run has found with the same setting."""
    if not path.is_file():
        return None
    record = read_json(path, "record of max_batch_positions=auto")
    size = record.get("max_batch_positions")
    return size if type(size) is int and size > 0 and record.get("setting") == setting else None
