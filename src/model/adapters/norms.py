"""Norms over channels of (batch, channels, frames) that leave padding out of their statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over (batch, channels, frames). With a mask, train mode counts real frames only, so that how much a
    batch is padded changes neither the output nor the running statistics."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (batch, frames) is true on real frames. Returns the shape and dtype of ``x``."""
        if mask is None or not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        real = mask[:, None, :].to(values.dtype)
        count = real.sum().clamp(min=1.0)
        mean = (values * real).sum(dim=(0, 2)) / count
        centred = values - mean[None, :, None]
        variance = (centred.square() * real).sum(dim=(0, 2)) / count
        self._update(mean, variance, count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None] + self.bias[None, :, None]).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 0.1
        unbiased = variance * count / (count - 1.0).clamp(min=1.0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of (batch, channels, frames). ``mask`` is accepted and not needed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the shape of ``x``."""
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def build_norm(kind: str, channels: int) -> nn.Module:
    """``batch`` or ``layer`` norm."""
    return MaskedBatchNorm1d(channels, eps=1e-5) if kind == "batch" else ChannelLayerNorm(channels)
