"""Fusions: several adapted streams to one sequence of the LLM's width.

A fusion of your own derives from :class:`Fusion`. :mod:`src.model.perceiver` contains those with latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.config import ConditionedFusionConfig, FusionConfig
from src.model.dropout import Dropout, attend
from src.model.layers import length_mask, zero_beyond


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
        # where no key counts, torch's attention gives NaN: https://github.com/pytorch/pytorch/issues/41508
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


class Fusion(nn.Module, ABC):
    """Streams to one sequence.

    ``Config`` is the dataclass of its options, derived from :class:`FusionConfig`. It is built with that
    configuration, the widths of the streams by encoder name, and the LLM's width; raise ``ValueError`` where they do
    not fit.
    """

    Config: ClassVar[type[FusionConfig]] = FusionConfig

    def __init__(self, config: Any, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__()

    def calc_length(self, streams: Streams) -> Tensor:
        """Frames (batch,) that count in the output; here each item's longest stream."""
        return streams.longest()

    @abstractmethod
    def forward(self, streams: Streams) -> Tensor:
        """(batch, frames, llm_dim)."""


class AudioFusion(nn.Module):
    """Any of the fusions over streams ``stream_dims`` wide (name -> width).

    With ``mask_padding`` an item's result depends on that item alone.
    """

    def __init__(
        self, config: FusionConfig, stream_dims: dict[str, int], llm_dim: int, mask_padding: bool = True
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.fusion_model = config.module()(config, stream_dims, llm_dim)

    def forward(self, streams: dict[str, Tensor], lengths: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Streams (batch, frames, dim) and lengths (batch,) by name to (batch, frames', llm_dim) and lengths."""
        aligned = align(streams, lengths, self.mask_padding)
        return self.fusion_model(aligned), self.fusion_model.calc_length(aligned)


class SumFusion(Fusion):
    """Elementwise sum of all streams; they must share one width."""

    def __init__(self, config: FusionConfig, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__(config, stream_dims, llm_dim)
        wrong = [f"{name} is {dim} wide" for name, dim in stream_dims.items() if dim != llm_dim]
        if wrong:
            raise ValueError(f"fusion_type 'sum' needs every stream to be {llm_dim} wide: {', '.join(wrong)}")

    def forward(self, streams: Streams) -> Tensor:
        """See :meth:`Fusion.forward`."""
        first, *others = streams.values.values()
        for other in others:
            first = first + other
        return first


@dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig(ConditionedFusionConfig):
    """Options of :class:`CrossAttentionFusion`; ``num_hidden_layers`` is one value or one per conditional encoder."""

    hidden_dim: int = 1024
    ffn_dims: int = 4096
    dropout: float = 0.1
    num_attention_heads: int = 16
    num_hidden_layers: int | tuple[int, ...] = 1
    use_skip_connection: bool = False


class DecoderLayer(nn.TransformerDecoderLayer):
    """torch's pre-norm decoder layer with GELU, batch first, and dropout that costs a CPU little."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__(
            dim,
            heads,
            dim_feedforward=ffn_dim,
            dropout=dropout,
            activation=F.gelu,
            layer_norm_eps=1e-5,
            batch_first=True,
            norm_first=True,
        )
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (Dropout(dropout) for _ in range(4))

    def forward(self, tgt: Tensor, memory: Tensor, padding: Tensor, memory_padding: Tensor) -> Tensor:  # type: ignore[override]
        """(batch, frames, dim) to the same; ``memory`` (batch, keys, dim); masks are true on padding."""
        # What torch's forward does with norm_first, but that its attention has no place for our dropout.
        x = self.norm1(tgt)
        running = tgt + self.dropout1(attend(self.self_attn, x, x, padding))
        running = running + self.dropout2(attend(self.multihead_attn, self.norm2(running), memory, memory_padding))
        x = self.dropout(self.activation(self.linear1(self.norm3(running))))
        return running + self.dropout3(self.linear2(x))


class CrossAttentionFusion(Fusion):
    """Pre-norm transformer decoder layers over the main stream, for each conditional encoder in config order.

    The running stream is carried from one conditional encoder to the next. Streams are projected to ``hidden_dim``
    first and the result back to the LLM's width.
    """

    Config = CrossAttentionConfig

    def __init__(self, config: CrossAttentionConfig, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__(config, stream_dims, llm_dim)
        main_encoder, conditional_encoders = config.main_encoder, config.conditional_encoders
        hidden_dim = config.hidden_dim
        self.main_encoder = main_encoder
        self.use_skip_connection = config.use_skip_connection
        depths = config.num_hidden_layers
        if isinstance(depths, int):
            depths = (depths,) * len(conditional_encoders)
        self.condition_modules = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    DecoderLayer(hidden_dim, config.num_attention_heads, config.ffn_dims, config.dropout)
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
        """See :meth:`Fusion.forward`; as many frames as the main stream."""
        main = self.in_proj[self.main_encoder](streams.values[self.main_encoder])
        main_padding = ~streams.key_mask(self.main_encoder, self.main_encoder)
        running = main
        for name, layers in self.condition_modules.items():  # in the order of conditional_encoders: not commutative
            condition = self.in_proj[name](streams.values[name])
            padding = ~streams.key_mask(name, self.main_encoder)
            for layer in layers:  # type: ignore[attr-defined]
                running = layer(running, condition, main_padding, padding)
        if self.use_skip_connection:
            running = running + main
        return self.out_proj(running)
