"""The fusion stage: align the streams, fuse them, tell how many frames each item has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from src.model.config import FusionConfig
from src.model.fusion.crossattention import CrossAttentionFusion
from src.model.fusion.perceiver import MultiPerceiverFusion, PerceiverFusion
from src.model.fusion.streams import align
from src.model.fusion.sum import SumFusion

FUSIONS: dict[str, Any] = {
    "sum": SumFusion,
    "crossattention": CrossAttentionFusion,
    "perceiver": PerceiverFusion,
    "multiperceiver": MultiPerceiverFusion,
}


class AudioFusion(nn.Module):
    """Any of the fusions over streams ``stream_dims`` wide (name -> width).

    With ``mask_padding`` an item's result depends on that item alone.
    """

    def __init__(
        self, config: FusionConfig, stream_dims: dict[str, int], llm_dim: int, mask_padding: bool = True
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.fusion_model = FUSIONS[config.fusion_type](stream_dims, llm_dim, **config.options())

    def forward(self, streams: dict[str, Tensor], lengths: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Streams (batch, frames, dim) and lengths (batch,) by name to (batch, frames', llm_dim) and lengths."""
        aligned = align(streams, lengths, self.mask_padding)
        return self.fusion_model(aligned), self.fusion_model.calc_length(aligned)
