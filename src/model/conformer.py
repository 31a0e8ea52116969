"""Conformer layers (Gulati et al., arXiv 2005.08100) with masks that also reach the convolutions."""

# Parameter names are those of torchaudio's Conformer, which published checkpoints contain
# (https://github.com/pytorch/audio/blob/main/src/torchaudio/models/conformer.py). That class itself would not do: it
# masks attention only, so that padding reaches real frames through the depthwise convolution and the batch norm.

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.model.dropout import Dropout, attend
from src.model.layers import MaskedBatchNorm1d


class FeedForward(nn.Module):
    """Layer norm, linear, swish, linear."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.sequential = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden_dim),
            nn.SiLU(),
            Dropout(dropout),
            nn.Linear(hidden_dim, dim),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, dim) to the same."""
        return self.sequential(x)


class ConvolutionModule(nn.Module):
    """Layer norm, pointwise convolution with gate, depthwise convolution, batch norm, swish, pointwise."""

    def __init__(self, dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.sequential = nn.Sequential(
            nn.Conv1d(dim, 2 * dim, 1),
            nn.GLU(dim=1),
            nn.Conv1d(dim, dim, kernel_size, padding=(kernel_size - 1) // 2, groups=dim),
            MaskedBatchNorm1d(dim),
            nn.SiLU(),
            nn.Conv1d(dim, dim, 1),
            Dropout(dropout),
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, dim) to the same; padding is zero where the depthwise convolution looks."""
        pointwise, gate, depthwise, norm, *rest = self.sequential
        x = gate(pointwise(self.layer_norm(x).transpose(1, 2)))
        if mask is not None:
            x = x.masked_fill(~mask[:, None, :], 0.0)
        x = norm(depthwise(x), mask)
        for module in rest:
            x = module(x)
        return x.transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half feed-forward, attention and convolution (either order), half feed-forward, layer norm."""

    def __init__(
        self, dim: int, heads: int, ffn_dim: int, kernel_size: int, dropout: float, convolution_first: bool
    ) -> None:
        super().__init__()
        self.ffn1 = FeedForward(dim, ffn_dim, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.self_attn_dropout = Dropout(dropout)
        self.conv_module = ConvolutionModule(dim, kernel_size, dropout)
        self.ffn2 = FeedForward(dim, ffn_dim, dropout)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.convolution_first = convolution_first

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, dim) to the same; ``mask`` (batch, frames) is true on real frames."""
        x = x + 0.5 * self.ffn1(x)  # half steps around attention and convolution: section 2.4 of the paper
        if self.convolution_first:
            x = x + self.conv_module(x, mask)
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn_dropout(attend(self.self_attn, normed, normed, None if mask is None else ~mask))
        if not self.convolution_first:
            x = x + self.conv_module(x, mask)
        x = x + 0.5 * self.ffn2(x)
        return self.final_layer_norm(x)


class Conformer(nn.Module):
    """A stack of :class:`ConformerLayer`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        layers: int,
        kernel_size: int,
        dropout: float,
        convolution_first: bool = False,
    ) -> None:
        super().__init__()
        self.conformer_layers = nn.ModuleList(
            ConformerLayer(dim, heads, ffn_dim, kernel_size, dropout, convolution_first) for _ in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, frames, dim) to the same; without a mask every frame counts as real."""
        for layer in self.conformer_layers:
            x = layer(x, mask)
        return x if mask is None else torch.where(mask[:, :, None], x, torch.zeros_like(x))
