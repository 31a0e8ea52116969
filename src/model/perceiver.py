"""Fusions that put a few latents, read from the conditional streams, in front of the main stream.

The latents are read by a perceiver resampler (Jaegle et al., arXiv 2107.14795): learned latents that attend to a
stream of any length.
"""

# Names of options and parameters, and their defaults, are those that published checkpoints have from
# https://github.com/krasserm/perceiver-io (perceiver/model/core/modules.py).

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.model.config import STD, ConditionedFusionConfig
from src.model.dropout import attention, dropout
from src.model.fusion import Fusion, Streams


@dataclass(frozen=True, kw_only=True)
class ResamplerOptions:
    """One resampler. Channels that are None follow the latents' width.

    ``dropout`` is that of the attention weights, ``residual_dropout`` that of what each layer adds; ``init_scale`` is
    the spread of the latents at the start.
    """

    num_latents: int
    num_latent_channels: int
    num_cross_attention_layers: int = 1
    num_cross_attention_heads: int = 4
    num_cross_attention_qk_channels: int | None = None
    num_cross_attention_v_channels: int | None = None
    cross_attention_widening_factor: int = 1
    first_cross_attention_layer_shared: bool = False
    num_self_attention_blocks: int = 1
    num_self_attention_layers_per_block: int = 6
    num_self_attention_heads: int = 4
    num_self_attention_qk_channels: int | None = None
    num_self_attention_v_channels: int | None = None
    self_attention_widening_factor: int = 1
    first_self_attention_block_shared: bool = True
    dropout: float = 0.0
    residual_dropout: float = 0.0
    init_scale: float = STD

    def __post_init__(self) -> None:
        if not 1 <= self.num_cross_attention_layers <= self.num_self_attention_blocks:
            raise ValueError(
                f"num_cross_attention_layers is {self.num_cross_attention_layers}, expected 1 to "
                f"num_self_attention_blocks ({self.num_self_attention_blocks})"
            )


class ResamplerAttention(nn.Module):
    """Multi-head attention with separate projections; keys, values and queries may differ in width."""

    def __init__(
        self,
        q_dim: int,
        kv_dim: int,
        heads: int,
        qk_channels: int | None,
        v_channels: int | None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        qk_dim, v_dim = qk_channels or q_dim, v_channels or q_dim
        if qk_dim % heads or v_dim % heads:
            raise ValueError(
                f"{qk_dim} query/key and {v_dim} value channels do not split into {heads} attention heads"
            )
        self.heads = heads
        self.q_proj = nn.Linear(q_dim, qk_dim)
        self.k_proj = nn.Linear(kv_dim, qk_dim)
        self.v_proj = nn.Linear(kv_dim, v_dim)
        self.o_proj = nn.Linear(v_dim, q_dim)

    def forward(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """q (batch, queries, q_dim), kv (batch, keys, kv_dim), mask (batch, keys) true on keys that count."""
        query, key, value = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(q), self.k_proj(kv), self.v_proj(kv))
        )
        bias = None
        if mask is not None:
            # A large finite number, not minus infinity: an item without keys attends evenly instead of becoming NaN
            # (https://github.com/pytorch/pytorch/issues/41508).
            lowest = torch.finfo(query.dtype).min
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)[:, None, None, :]
        attended = attention(query, key, value, bias, self.dropout if self.training else 0.0)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Pre-norm attention of latents to a stream."""

    def __init__(self, kv_dim: int, options: ResamplerOptions) -> None:
        super().__init__()
        q_dim, heads = options.num_latent_channels, options.num_cross_attention_heads
        qk, v = options.num_cross_attention_qk_channels, options.num_cross_attention_v_channels
        self.q_norm = nn.LayerNorm(q_dim)
        self.kv_norm = nn.LayerNorm(kv_dim)
        self.attention = ResamplerAttention(q_dim, kv_dim, heads, qk, v, options.dropout)

    def forward(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the shape of ``q``."""
        return self.attention(self.q_norm(q), self.kv_norm(kv), mask)


class SelfAttention(nn.Module):
    """Pre-norm attention among latents."""

    def __init__(self, options: ResamplerOptions) -> None:
        super().__init__()
        dim, heads = options.num_latent_channels, options.num_self_attention_heads
        qk, v = options.num_self_attention_qk_channels, options.num_self_attention_v_channels
        self.norm = nn.LayerNorm(dim)
        self.attention = ResamplerAttention(dim, dim, heads, qk, v, options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of ``x``."""
        x = self.norm(x)
        return self.attention(x, x, None)


class Residual(nn.Module):
    """First argument plus what the module makes of all arguments, with dropout on the latter."""

    def __init__(self, module: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.module = module
        self.dropout = dropout

    def forward(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Returns the shape of ``x``."""
        return x + dropout(self.module(x, *others), self.dropout, self.training)


class LatentProvider(nn.Module):
    """The learned latents."""

    def __init__(self, latents: int, channels: int, init_scale: float = STD) -> None:
        super().__init__()
        self._query = nn.Parameter(torch.randn(latents, channels) * init_scale)

    def forward(self, batch: int) -> Tensor:
        """(batch, latents, channels)."""
        return self._query.expand(batch, -1, -1)


class Resampler(nn.Module):
    """Latents attend to the input, then to one another, and again.

    One cross-attention and one self-attention block; then for every further block: cross-attention again as long as
    layers are left, and a block. Repeats use the first module when it is shared, else one second module for all.
    """

    def __init__(self, input_dim: int, options: ResamplerOptions) -> None:
        super().__init__()
        self.options = options
        self.latent_provider = LatentProvider(options.num_latents, options.num_latent_channels, options.init_scale)

        def layer(attention: nn.Module, widening: int) -> nn.Sequential:
            dim, wide = options.num_latent_channels, widening * options.num_latent_channels
            mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim))
            return nn.Sequential(*(Residual(part, options.residual_dropout) for part in (attention, mlp)))

        def cross() -> nn.Sequential:
            return layer(CrossAttention(input_dim, options), options.cross_attention_widening_factor)

        def block() -> nn.Sequential:
            count, widening = options.num_self_attention_layers_per_block, options.self_attention_widening_factor
            return nn.Sequential(*(layer(SelfAttention(options), widening) for _ in range(count)))

        self.cross_attn_1, self.self_attn_1 = cross(), block()
        if options.num_cross_attention_layers > 1 and not options.first_cross_attention_layer_shared:
            self.cross_attn_n = cross()
        if options.num_self_attention_blocks > 1 and not options.first_self_attention_block_shared:
            self.self_attn_n = block()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, frames, input_dim), mask (batch, frames) true on real frames; (batch, latents, channels)."""
        latents = self.latent_provider(x.shape[0])
        cross, block = self.cross_attn_1, self.self_attn_1
        for index in range(self.options.num_self_attention_blocks):
            if index < self.options.num_cross_attention_layers:
                attention, mlp = cross
                latents = mlp(attention(latents, x, mask))
            latents = block(latents)
            cross, block = getattr(self, "cross_attn_n", cross), getattr(self, "self_attn_n", block)
        return latents


class _LatentFusion(Fusion):
    """Shared frame: [start separator, latents, end separator, main stream]."""

    total_latents: int

    def __init__(self, config: ConditionedFusionConfig, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__(config, stream_dims, llm_dim)
        main = config.main_encoder
        if stream_dims[main] != llm_dim:
            raise ValueError(
                f"main_encoder {main!r} gives {stream_dims[main]} wide frames; the LLM's width is {llm_dim}"
            )
        self.main_encoder = main
        self.conditional_encoders = config.conditional_encoders
        self.cond_start_emb = nn.Parameter(torch.randn(1, llm_dim))
        self.cond_end_emb = nn.Parameter(torch.randn(1, llm_dim))

    def calc_length(self, streams: Streams) -> Tensor:
        """Main frames, all latents and two separators."""
        return streams.lengths[self.main_encoder] + self.total_latents + 2

    def _join(self, latents: list[Tensor], main: Tensor) -> Tensor:
        batch = main.shape[0]
        start, end = (emb.expand(batch, -1, -1) for emb in (self.cond_start_emb, self.cond_end_emb))
        return torch.cat([start, *latents, end, main], dim=1)


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig(ResamplerOptions, ConditionedFusionConfig):
    """Options of :class:`PerceiverFusion`: those of its one resampler."""

    def __post_init__(self) -> None:
        ConditionedFusionConfig.__post_init__(self)
        ResamplerOptions.__post_init__(self)


class PerceiverFusion(_LatentFusion):
    """One resampler over all conditional streams, joined in time; all must be as wide as the LLM."""

    Config = PerceiverConfig

    def __init__(self, config: PerceiverConfig, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__(config, stream_dims, llm_dim)
        wrong = [
            f"{name} is {stream_dims[name]} wide"
            for name in config.conditional_encoders
            if stream_dims[name] != llm_dim
        ]
        if wrong:
            raise ValueError(f"fusion_type 'perceiver' needs every stream to be {llm_dim} wide: {', '.join(wrong)}")
        self.perceiver = Resampler(llm_dim, config)
        self.total_latents = self.perceiver.options.num_latents
        self.out_proj = nn.Linear(self.perceiver.options.num_latent_channels, llm_dim)

    def forward(self, streams: Streams) -> Tensor:
        """(batch, latents + 2 + frames, llm_dim)."""
        joined = torch.cat([streams.values[name] for name in self.conditional_encoders], dim=1)
        mask = torch.cat([streams.key_mask(name, self.main_encoder) for name in self.conditional_encoders], dim=1)
        latents = self.out_proj(self.perceiver(joined, mask))
        return self._join([latents], streams.values[self.main_encoder])


@dataclass(frozen=True, kw_only=True)
class MultiPerceiverConfig(ConditionedFusionConfig):
    """Options of :class:`MultiPerceiverFusion`: those of :class:`ResamplerOptions`, each as one value, or as one per
    conditional encoder in the order of ``conditional_encoders``."""

    num_latents: int | tuple[int, ...]
    num_latent_channels: int | tuple[int, ...]
    num_cross_attention_layers: int | tuple[int, ...] = 1
    num_cross_attention_heads: int | tuple[int, ...] = 4
    num_cross_attention_qk_channels: int | tuple[int | None, ...] | None = None
    num_cross_attention_v_channels: int | tuple[int | None, ...] | None = None
    cross_attention_widening_factor: int | tuple[int, ...] = 1
    first_cross_attention_layer_shared: bool | tuple[bool, ...] = False
    num_self_attention_blocks: int | tuple[int, ...] = 1
    num_self_attention_layers_per_block: int | tuple[int, ...] = 6
    num_self_attention_heads: int | tuple[int, ...] = 4
    num_self_attention_qk_channels: int | tuple[int | None, ...] | None = None
    num_self_attention_v_channels: int | tuple[int | None, ...] | None = None
    self_attention_widening_factor: int | tuple[int, ...] = 1
    first_self_attention_block_shared: bool | tuple[bool, ...] = True
    dropout: float | tuple[float, ...] = 0.0
    residual_dropout: float | tuple[float, ...] = 0.0
    init_scale: float | tuple[float, ...] = STD
    conditional_embedding_dim: int | tuple[int, ...] | None = None


class MultiPerceiverFusion(_LatentFusion):
    """One resampler for each conditional stream, of its own width, masked by its own lengths."""

    Config = MultiPerceiverConfig

    def __init__(self, config: MultiPerceiverConfig, stream_dims: Mapping[str, int], llm_dim: int) -> None:
        super().__init__(config, stream_dims, llm_dim)
        self.perceiver, self.out_proj = nn.ModuleDict(), nn.ModuleDict()
        self.total_latents = 0
        for index, name in enumerate(self.conditional_encoders):
            expected = _pick(config.conditional_embedding_dim, index)
            if expected not in (None, stream_dims[name]):
                raise ValueError(
                    f"conditional_embedding_dim of {name} is {expected}, its stream is {stream_dims[name]} wide"
                )
            own = ResamplerOptions(
                **{one.name: _pick(getattr(config, one.name), index) for one in dataclasses.fields(ResamplerOptions)}
            )
            self.perceiver[name] = Resampler(stream_dims[name], own)
            self.out_proj[name] = nn.Linear(own.num_latent_channels, llm_dim)
            self.total_latents += own.num_latents

    def forward(self, streams: Streams) -> Tensor:
        """(batch, all latents + 2 + frames, llm_dim)."""
        own = dataclasses.replace(streams, own_masks=True)  # in the published code too, unlike the other fusions
        latents = []
        for name in self.conditional_encoders:
            read = self.perceiver[name](streams.values[name], own.key_mask(name, self.main_encoder))
            latents.append(self.out_proj[name](read))
        return self._join(latents, streams.values[self.main_encoder])


def _pick(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, tuple) else value
