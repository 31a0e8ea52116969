"""Randomness: one seed for a run, and a stable seed for every row."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes no larger seed
    torch.manual_seed(seed)


def row_seed(seed: int, key: str) -> int:
    """Seed of one row: depends only on the run's seed and the row's key, never on the batch order."""
    # not hash(), which differs from process to process (PYTHONHASHSEED)
    return zlib.crc32(f"{seed}:{key}".encode())


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random states of Python, numpy, torch and its current accelerator afterwards."""
    import numpy as np
    import torch

    python, arrays = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
