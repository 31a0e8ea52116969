"""SSLAM (EAT): filterbank at 100 Hz -> patches of 16 frames x 16 bins -> transformer.

The 8 patches of one 160 ms step follow each other in the output, so its "50 Hz" sequence is 6.25 steps a second
times 8 frequency bands. Padding inside a chunk is attended, as the model was trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from src.audio.config import FeatureConfig
from src.model.encoders.base import Encoder, Lengths, register_unused_weights

PATCH = 16
NORM_EPS = 1e-6
POSITIONS = "encoder.model.fixed_positional_encoder.positions"
PUBLISHED_WIDTH = 768
# Wavelengths of the published table whose last bit numpy's float32 power rounds up or down with AVX-512; without it,
# as in float64, the power rounds to nearest. At position 767 the angle differs by up to 6e-5.
ROUNDED_UP = (11, 21, 42, 49, 52, 56, 65, 81, 84, 95, 98, 100, 103, 107, 110, 136, 139, 141, 172, 179, 182)
ROUNDED_DOWN = (4, 14, 30, 32, 34, 59, 75, 80, 92, 94, 106, 109, 119, 121, 131, 135, 148, 160, 162, 173, 177, 189)


@dataclass(frozen=True)
class SSLAMArchitecture:
    """SSLAM (EAT) sizes. ``max_time_patches`` bounds the position table (16 feature frames a patch).

    ``unused_tensors`` holds the published classifier (``num_classes``), which the forward never reads, so that
    published checkpoints load and save whole.
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0
    max_time_patches: int = 768
    num_classes: int = 527
    unused_tensors: bool = False
    dropout: float = 0.0


class SSLAMEncoder(Encoder):
    """States: i is the output of block i + 1 without the class token; the patch embedding is not among them.

    Args:
        model: the backbone.
        chunk_frames: feature frames of one chunk (1024 published), a multiple of 16.
    """

    Config = SSLAMArchitecture
    unused_prefixes = ("encoder.model.fc_norm.", "encoder.model.head.")

    def __init__(self, model: EATModel, chunk_frames: int) -> None:
        nested = nn.ModuleDict({"model": model})  # published names begin with "encoder.model."
        super().__init__(nested, chunk_frames, model.extra_tokens.shape[-1], len(model.blocks))
        self.bands = model.bands

    @classmethod
    def from_config(cls, config: SSLAMArchitecture, features: FeatureConfig) -> SSLAMEncoder:
        """A randomly initialised encoder of the given sizes."""
        return cls(EATModel(config, features.num_mels // PATCH), features.chunk_frames)

    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """See :meth:`Encoder.states`; ``chunks (chunks, chunk_frames, mels)``, the mask is not used."""
        for state in self.encoder.model(chunks):
            yield state[:, 1:]

    def calc_length(self, lengths: Lengths) -> Lengths:
        """Half the feature frames, rounded down: 8 tokens per 16 frames."""
        return lengths // 2

    def computed_tensors(self) -> Mapping[str, Tensor]:
        """The position table."""
        rows = self.get_parameter(POSITIONS).shape[1]
        return {POSITIONS: position_table(rows // self.bands, self.bands, self.width)}


class EATModel(nn.Module):
    """Patch embedding, fixed positions, class token and post-norm blocks, named as in the published checkpoint."""

    def __init__(self, config: SSLAMArchitecture, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.extra_tokens = nn.Parameter(torch.zeros(1, 1, config.width))
        self.local_encoder = nn.Sequential(OrderedDict(proj=nn.Conv2d(1, config.width, PATCH, PATCH)))
        self.fixed_positional_encoder = FixedPositions(config.max_time_patches, bands, config.width)
        self.blocks = nn.ModuleList(SSLAMBlock(config) for _ in range(config.num_layers))
        self.pre_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.extra_tokens, std=0.02)
        if config.unused_tensors:
            classes, width = config.num_classes, config.width
            shapes = {"head.weight": (classes, width), "head.bias": (classes,)}
            register_unused_weights(self, shapes | {"fc_norm.weight": (width,), "fc_norm.bias": (width,)})

    def forward(self, chunks: Tensor) -> Iterator[Tensor]:
        """Outputs of the blocks ``(chunks, 1 + tokens, width)``, class token first, one at a time."""
        patches = self.local_encoder(chunks[:, None].to(self.extra_tokens.dtype))  # (chunks, width, steps, bands)
        tokens = self.fixed_positional_encoder(patches.flatten(2).transpose(1, 2))
        hidden = torch.cat([self.extra_tokens.expand(len(tokens), -1, -1), tokens], dim=1)
        hidden = self.dropout(self.pre_norm(hidden))
        for block in self.blocks:
            hidden = block(hidden)
            yield hidden


class FixedPositions(nn.Module):
    """Adds the first rows of a fixed table; the table is part of published checkpoints."""

    def __init__(self, times: int, bands: int, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(position_table(times, bands, width), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(chunks, tokens, width)`` to the same shape."""
        return tokens + self.positions[:, : tokens.shape[1]]


class SSLAMBlock(nn.Module):
    """Post-norm transformer block: the norms follow the residual sums."""

    def __init__(self, config: SSLAMArchitecture) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = SSLAMAttention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        hidden = round(config.mlp_ratio * config.width)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(config.width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, config.width))
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, tokens, width)`` to the same shape."""
        hidden = self.norm1(hidden + self.dropout(self.attn(hidden)))
        return self.norm2(hidden + self.dropout(self.mlp(hidden)))


class SSLAMAttention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, tokens, width)`` to the same shape."""
        batch, tokens, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))


def _wavelengths(width: int) -> NDArray[np.float32]:
    """Wavelengths ``(width / 4,)`` of a position table, in positions per radian, equal on every processor."""
    exponents = np.arange(width // 4, dtype=np.float32) / np.float32(width // 4)
    wavelengths = (10000.0 ** exponents.astype(np.float64)).astype(np.float32)
    if width == PUBLISHED_WIDTH:
        for indices, towards in ((ROUNDED_UP, np.inf), (ROUNDED_DOWN, 0.0)):
            chosen = list(indices)
            wavelengths[chosen] = np.nextafter(wavelengths[chosen], np.float32(towards))
    return wavelengths


def position_table(times: int, bands: int, width: int) -> Tensor:
    """Fixed 2-D sin-cos positions ``(1, times * bands, width)``, time-major.

    The first half of the channels encodes the band, the second half the time; each half is [sin | cos].
    """
    # float32 from here on: the published table was rounded this way, and late positions show it in the 5th digit
    rates = np.float32(1.0) / _wavelengths(width)

    def encode(count: int) -> Tensor:
        angles = np.arange(count, dtype=np.float32)[:, None] * rates
        return torch.as_tensor(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))

    band = encode(bands)[None].expand(times, -1, -1)
    time = encode(times)[:, None].expand(-1, bands, -1)
    return torch.cat([band, time], dim=-1).reshape(1, times * bands, width)
