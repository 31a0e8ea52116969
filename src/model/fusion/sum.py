"""Fusion by addition."""

from __future__ import annotations

from torch import Tensor, nn

from src.model.fusion.streams import Streams


class SumFusion(nn.Module):
    """Elementwise sum of all streams; they must share one width."""

    def __init__(self, stream_dims: dict[str, int], llm_dim: int) -> None:
        super().__init__()
        wrong = [f"{name} is {dim} wide" for name, dim in stream_dims.items() if dim != llm_dim]
        if wrong:
            raise ValueError(f"fusion_type 'sum' needs every stream to be {llm_dim} wide: {', '.join(wrong)}")

    def calc_length(self, streams: Streams) -> Tensor:
        """Each item's longest stream."""
        return streams.longest()

    def forward(self, streams: Streams) -> Tensor:
        """(batch, frames, llm_dim)."""
        first, *others = streams.values.values()
        for other in others:
            first = first + other
        return first
