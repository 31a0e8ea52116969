"""Masks from lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths: Tensor, frames: int, device: torch.device) -> Tensor:
    """True where a frame is real: (batch, frames) bool on ``device`` from (batch,) lengths."""
    steps = torch.arange(frames, device=device)
    return steps[None, :] < lengths.to(device, non_blocking=True)[:, None]


def zero_beyond(values: Tensor, lengths: Tensor) -> Tensor:
    """``values`` (batch, frames, dim) with every frame at or past the item's length set to zero, NaN included."""
    mask = length_mask(lengths, values.shape[1], values.device)
    return values.masked_fill(~mask[:, :, None], 0.0)
