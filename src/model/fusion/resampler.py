"""Perceiver resampler (Jaegle et al., arXiv 2107.14795): learned latents that read a stream of any length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.model.init import STD


@dataclass(frozen=True)
class ResamplerOptions:
    """One resampler. Channels that are None follow the latents' width.

    ``dropout`` is that of the attention weights, ``residual_dropout`` that of what each layer adds; ``init_scale`` is
    the spread of the latents at the start.
    """

    num_latents: int
    num_latent_channels: int
    num_cross_attention_layers: int
    num_cross_attention_heads: int
    num_cross_attention_qk_channels: int | None
    num_cross_attention_v_channels: int | None
    cross_attention_widening_factor: int
    first_cross_attention_layer_shared: bool
    num_self_attention_blocks: int
    num_self_attention_layers_per_block: int
    num_self_attention_heads: int
    num_self_attention_qk_channels: int | None
    num_self_attention_v_channels: int | None
    self_attention_widening_factor: int
    first_self_attention_block_shared: bool
    dropout: float = 0.0
    residual_dropout: float = 0.0
    init_scale: float = STD

    def __post_init__(self) -> None:
        if not 1 <= self.num_cross_attention_layers <= self.num_self_attention_blocks:
            raise ValueError(
                f"num_cross_attention_layers is {self.num_cross_attention_layers}, expected 1 to "
                f"num_self_attention_blocks ({self.num_self_attention_blocks})"
            )


class Attention(nn.Module):
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
            # A large finite number, not minus infinity: an item without keys attends evenly instead of becoming NaN.
            lowest = torch.finfo(query.dtype).min
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Pre-norm attention of latents to a stream."""

    def __init__(
        self, q_dim: int, kv_dim: int, heads: int, qk: int | None, v: int | None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.q_norm = nn.LayerNorm(q_dim)
        self.kv_norm = nn.LayerNorm(kv_dim)
        self.attention = Attention(q_dim, kv_dim, heads, qk, v, dropout)

    def forward(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the shape of ``q``."""
        return self.attention(self.q_norm(q), self.kv_norm(kv), mask)


class SelfAttention(nn.Module):
    """Pre-norm attention among latents."""

    def __init__(self, dim: int, heads: int, qk: int | None, v: int | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, heads, qk, v, dropout)

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
        return x + F.dropout(self.module(x, *others), self.dropout, self.training and self.dropout > 0)


def _mlp(dim: int, widening: int, dropout: float) -> Residual:
    layers = (nn.LayerNorm(dim), nn.Linear(dim, widening * dim), nn.GELU(), nn.Linear(widening * dim, dim))
    return Residual(nn.Sequential(*layers), dropout)


class LatentProvider(nn.Module):
    """The learned latents."""

    def __init__(self, latents: int, channels: int, init_scale: float = STD) -> None:
        super().__init__()
        self._query = nn.Parameter(torch.randn(latents, channels) * init_scale)

    def forward(self, batch: int) -> Tensor:
        """(batch, latents, channels)."""
        return self._query.expand(batch, -1, -1)


class Resampler(nn.Module):
    """Latents read the input, then think among themselves, and again.

    One cross-attention and one self-attention block; then for every further block: cross-attention again as long as
    layers are left, and a block. Repeats use the first module when it is shared, else one second module for all.
    """

    def __init__(self, input_dim: int, options: ResamplerOptions) -> None:
        super().__init__()
        self.options = options
        self.latent_provider = LatentProvider(options.num_latents, options.num_latent_channels, options.init_scale)
        self.cross_attn_1 = self._cross(input_dim)
        self.self_attn_1 = self._block()
        if options.num_cross_attention_layers > 1 and not options.first_cross_attention_layer_shared:
            self.cross_attn_n = self._cross(input_dim)
        if options.num_self_attention_blocks > 1 and not options.first_self_attention_block_shared:
            self.self_attn_n = self._block()

    def _cross(self, input_dim: int) -> nn.Sequential:
        o = self.options
        attention = CrossAttention(
            o.num_latent_channels,
            input_dim,
            o.num_cross_attention_heads,
            o.num_cross_attention_qk_channels,
            o.num_cross_attention_v_channels,
            o.dropout,
        )
        mlp = _mlp(o.num_latent_channels, o.cross_attention_widening_factor, o.residual_dropout)
        return nn.Sequential(Residual(attention, o.residual_dropout), mlp)

    def _block(self) -> nn.Sequential:
        o = self.options
        layers = []
        for _ in range(o.num_self_attention_layers_per_block):
            attention = SelfAttention(
                o.num_latent_channels,
                o.num_self_attention_heads,
                o.num_self_attention_qk_channels,
                o.num_self_attention_v_channels,
                o.dropout,
            )
            mlp = _mlp(o.num_latent_channels, o.self_attention_widening_factor, o.residual_dropout)
            layers.append(nn.Sequential(Residual(attention, o.residual_dropout), mlp))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, frames, input_dim), mask (batch, frames) true on real frames; (batch, latents, channels)."""
        latents = self._read(self.cross_attn_1, self.latent_provider(x.shape[0]), x, mask)
        latents = self.self_attn_1(latents)
        for index in range(1, self.options.num_self_attention_blocks):
            if index < self.options.num_cross_attention_layers:
                latents = self._read(getattr(self, "cross_attn_n", self.cross_attn_1), latents, x, mask)
            latents = getattr(self, "self_attn_n", self.self_attn_1)(latents)
        return latents

    @staticmethod
    def _read(layer: nn.Sequential, latents: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        attention, mlp = layer
        return mlp(attention(latents, x, mask))
