"""Memory of the training device: what is free, and the peak of a trial step that leaves no trace in the trainer."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from src.common.errors import ConfigError
from src.common.memory import release_freed_memory
from src.dataset.examples import collate

if TYPE_CHECKING:
    from src.training.trainer import AlarmTrainer

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_SHARE = {"cuda": 0.92, "cpu": 0.8}
"""Share of the free memory to plan with: the rest is for fragments, data workers and the page cache."""
_FULL = ("can't allocate memory", "not enough memory", "out of memory")
"""Messages of PyTorch's allocators."""


@dataclass(frozen=True)
class Trial:
    """A step that was tried: peak memory of the process on the device, in bytes, and its seconds."""

    peak: int
    seconds: float


def free_memory(device: torch.device) -> int:
    """Bytes that this process may have on its device in all: what it has now and its share of what is free.

    On a CPU the least of the machine's, the control group's and the process's own limit counts, and processes of a
    run on one machine share it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = min(_machine_free(), _group_free(), _limit_free()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return held_memory(device) + int(_SHARE[device.type] * max(0, free))


def held_memory(device: torch.device) -> int:
    """Bytes that this process has on the device."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _status("VmRSS")


def _machine_free() -> int:
    # MemAvailable, not MemFree: page cache that can be dropped counts as free.
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _group_free(folder: Path = _CGROUP) -> int:
    """Of the control group (version 2, then 1); files of the page cache that nobody uses count as free."""
    for limit, used, statistics, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most = (folder / limit).read_text().strip()
            held = int((folder / used).read_text())
            named = dict(line.split() for line in (folder / statistics).read_text().splitlines())
        except (OSError, ValueError):
            continue
        return 2**62 if most == "max" else int(most) - held + int(named.get(cache, 0))
    return 2**62


def _limit_free() -> int:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 2**62 if most == resource.RLIM_INFINITY else most - _status("VmSize")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def reset_peak(device: torch.device) -> None:
    """Begin to measure a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    release_freed_memory()
    with suppress(OSError):  # where this is forbidden, peaks are those of the process's whole life: never too small
        # 5 sets VmHWM back: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Peak bytes since :func:`reset_peak`."""
    # reserved, not allocated: memory that the allocator keeps in fragments is not free for others either
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _status("VmHWM")


def check_device(trainer: AlarmTrainer, key: str) -> None:
    """Raise :class:`ConfigError` where steps cannot be tried: sharded models, other devices than CUDA and CPU."""
    if trainer.is_sharded:
        raise ConfigError(f"{key} tries steps of a whole model, which FSDP and DeepSpeed share out; give a number")
    if trainer.args.device.type not in _SHARE:
        raise ConfigError(f"{key} knows the memory of CUDA devices and CPUs, not {trainer.args.device.type}")


def row_lengths(trainer: AlarmTrainer) -> tuple[int, int, int, int]:
    """Longest and shortest training row, each as row number and estimated positions that are left of it."""
    assert trainer.data.train is not None
    lengths = trainer.data.train.lengths()
    most = trainer.model.max_length or 2**62
    longest, shortest = int(lengths.argmax()), int(lengths.argmin())
    found = [min(most, max(1, -int(-lengths[row] // 1))) for row in (longest, shortest)]
    return longest, found[0], shortest, found[1]


def try_step(trainer: AlarmTrainer, rows: Sequence[int]) -> Trial | None:
    """Forward and backward pass of a micro-batch of training rows; None if the memory did not suffice.

    Room for the optimizer's state and for the buffers that processes exchange is held meanwhile.
    """
    device = trainer.args.device
    began = time.perf_counter()
    with _without_trace(trainer):
        reset_peak(device)
        try:
            trained = sum(value.nbytes for value in trainer.model.parameters() if value.requires_grad)
            # Adam's two moments and the buckets of DDP; ones, as pages that were never written take no memory
            room = torch.ones(3 * trained, dtype=torch.uint8, device=device)
            assert trainer.data.train is not None
            examples = {row: trainer.data.train[row] for row in set(rows)}
            batch = collate([examples[row] for row in rows])
            ahead = None if trainer.ahead is None else trainer.ahead.encode(batch)  # of the next micro-batch
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            del room, loss, ahead
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _FULL):
                raise
            return None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return Trial(peak(device), time.perf_counter() - began)


@contextmanager
def _without_trace(trainer: AlarmTrainer) -> Iterator[None]:
    """Restore mode, random generators, counters and the statistics of batch norms, and drop gradients."""
    model, device = trainer.model, trainer.args.device
    buffers = [(value, value.clone()) for value in model.audio_embedder.buffers()]
    training, positions = model.training, trainer.positions
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for value, before in buffers:
                value.copy_(before)
        model.train(training)
        trainer.positions = positions
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
