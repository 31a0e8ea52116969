"""Randomness: one seed for a run, and a stable seed for every row."""

from __future__ import annotations

import random
import zlib


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def row_seed(seed: int, key: str) -> int:
    """Seed of one row: depends on the run's seed and the row's key alone, never on the batch order."""
    return zlib.crc32(f"{seed}:{key}".encode())
