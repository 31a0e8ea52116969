"""Fusion by cross-attention: the main stream asks each conditional stream in turn."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from src.model.fusion.streams import Streams


class CrossAttentionFusion(nn.Module):
    """Pre-norm transformer decoder layers over the main stream, for each conditional encoder in config order.

    The running stream is carried from one conditional encoder to the next. Streams are projected to ``hidden_dim``
    first and the result back to the LLM's width.
    """

    def __init__(
        self,
        stream_dims: dict[str, int],
        llm_dim: int,
        main_encoder: str,
        conditional_encoders: tuple[str, ...],
        hidden_dim: int,
        ffn_dims: int,
        dropout: float,
        num_attention_heads: int,
        num_hidden_layers: int | tuple[int, ...],
        use_skip_connection: bool,
    ) -> None:
        super().__init__()
        self.main_encoder = main_encoder
        self.use_skip_connection = use_skip_connection
        depths = num_hidden_layers
        if isinstance(depths, int):
            depths = (depths,) * len(conditional_encoders)
        self.condition_modules = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    nn.TransformerDecoderLayer(
                        hidden_dim,
                        num_attention_heads,
                        dim_feedforward=ffn_dims,
                        dropout=dropout,
                        activation=F.gelu,
                        layer_norm_eps=1e-5,
                        batch_first=True,
                        norm_first=True,
                    )
                    for _ in range(depth)
                )
                for name, depth in zip(conditional_encoders, depths, strict=True)
            }
        )
        self.in_proj = nn.ModuleDict(
            {name: nn.Linear(stream_dims[name], hidden_dim) for name in (main_encoder, *conditional_encoders)}
        )
        self.out_proj = nn.Linear(hidden_dim, llm_dim)

    def calc_length(self, streams: Streams) -> Tensor:
        """The main stream's lengths; the longest stream's where the published masks are in use."""
        return streams.lengths[self.main_encoder] if streams.own_masks else streams.longest()

    def forward(self, streams: Streams) -> Tensor:
        """(batch, frames, llm_dim)."""
        main = self.in_proj[self.main_encoder](streams.values[self.main_encoder])
        main_padding = ~streams.key_mask(self.main_encoder, self.main_encoder)
        running = main
        for name, layers in self.condition_modules.items():
            condition = self.in_proj[name](streams.values[name])
            padding = ~streams.key_mask(name, self.main_encoder)
            for layer in layers:  # type: ignore[attr-defined]
                running = layer(
                    running, condition, tgt_key_padding_mask=main_padding, memory_key_padding_mask=padding
                )
        if self.use_skip_connection:
            running = running + main
        return self.out_proj(running)
