"""What every fusion works on: named streams of equal padded length, with each item's own lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from src.model.masks import length_mask, zero_beyond


@dataclass(frozen=True)
class Streams:
    """``values`` name -> (batch, frames, dim) and ``lengths`` name -> (batch,), names in sorted order.

    All streams have the same number of frames. ``own_masks`` says whether keys are masked by each stream's own
    lengths (an item sees only itself), or all by the main encoder's as in the published code.
    """

    values: dict[str, Tensor]
    lengths: dict[str, Tensor]
    own_masks: bool

    def key_mask(self, name: str, main: str) -> Tensor:
        """True on the keys of stream ``name`` that may be attended: (batch, frames).

        An item without frames keeps its first one, so that attention is always defined.
        """
        lengths = self.lengths[name if self.own_masks else main]
        values = self.values[name]
        return length_mask(lengths.clamp(min=1), values.shape[1], values.device)

    def longest(self) -> Tensor:
        """Each item's longest stream: (batch,)."""
        return torch.stack(list(self.lengths.values())).amax(dim=0)


def align(values: dict[str, Tensor], lengths: dict[str, Tensor], mask_padding: bool) -> Streams:
    """Zero-pad all streams in time to the longest; with ``mask_padding`` also clear what is past an item's length."""
    frames = max(value.shape[1] for value in values.values())
    aligned = {}
    for name in sorted(values):
        value = values[name]
        if mask_padding:
            value = zero_beyond(value, lengths[name].clamp(min=1))
        aligned[name] = F.pad(value, (0, 0, 0, frames - value.shape[1]))
    return Streams(aligned, {name: lengths[name] for name in aligned}, mask_padding)
