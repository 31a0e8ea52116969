"""Parts that adapters and fusions share: masks from lengths, norms that leave padding out, initial values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.model.config import STD


def length_mask(lengths: Tensor, frames: int, device: torch.device) -> Tensor:
    """True where a frame is real: (batch, frames) bool on ``device`` from (batch,) lengths."""
    steps = torch.arange(frames, device=device)
    return steps[None, :] < lengths.to(device, non_blocking=True)[:, None]


def zero_beyond(values: Tensor, lengths: Tensor) -> Tensor:
    """``values`` (batch, frames, dim) with every frame at or past the item's length set to zero."""
    mask = length_mask(lengths, values.shape[1], values.device)
    # not a product with the mask: NaN times zero is NaN
    return values.masked_fill(~mask[:, :, None], 0.0)


class MaskedBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over (batch, channels, frames). With a mask, train mode counts real frames only, so that how much a
    batch is padded changes neither the output nor the running statistics."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (batch, frames) is true on real frames. Returns the shape and dtype of ``x``."""
        if mask is None or not self.training:
            return super().forward(x)
        # float32, as sums over a batch's frames lose digits in bfloat16; float64 stays
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        real = mask[:, None, :].to(values.dtype)
        count = real.sum().clamp(min=1.0)
        mean = (values * real).sum(dim=(0, 2)) / count
        centred = values - mean[None, :, None]
        variance = (centred.square() * real).sum(dim=(0, 2)) / count
        with torch.no_grad():
            if (
                self.running_mean is not None
                and self.running_var is not None
                and self.num_batches_tracked is not None
            ):
                self.num_batches_tracked.add_(1)
                momentum = self.momentum if self.momentum is not None else 0.1
                # as torch: the biased variance normalises, the unbiased one is tracked
                unbiased = variance * count / (count - 1.0).clamp(min=1.0)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None] + self.bias[None, :, None]).to(x.dtype)


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


@torch.no_grad()
def init_weights(root: nn.Module, std: float = STD) -> None:
    """Set new adapters and fusions: linear and 1-D conv weights normal with ``std``, biases 0; norms 1 and 0; joint
    attention input projections Xavier uniform. Bare parameters (latents, layer weights, separators) are set by the
    modules that own them."""
    for module in root.modules():
        if isinstance(module, nn.MultiheadAttention):  # its output projection is a Linear, and comes by itself
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
