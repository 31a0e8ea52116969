"""MuQ: samples at 24 kHz -> mel spectrogram -> 2-D convolutions -> conformer, states at 25 Hz."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2ConformerConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from src.audio.config import FeatureConfig
from src.audio.muq import HOP, muq_mel
from src.model.encoders.base import Encoder, Lengths, conformer_sizes, register_unused_weights

CONV_STRIDE = 4
SAMPLES_PER_FRAME = HOP * CONV_STRIDE
ROTARY_BASE = 10000
INV_FREQ = "encoder.model.conformer.embed_positions.inv_freq"
NUM_CODEBOOKS, CODEBOOK_SIZE, CODEBOOK_DIM, CODEBOOK_INPUT, NUM_LABELS = 8, 1024, 16, 512, 8192
"""Sizes of the published pretraining parts that the forward never reads."""


@dataclass(frozen=True)
class MuQArchitecture:
    """MuQ sizes: 2-D convolutions (``conv_channels``) over ``num_mels`` bins of a spectrum, then a conformer.

    ``unused_tensors`` holds the published pretraining parts, which the forward never reads, so that published
    checkpoints load and save whole.
    """

    width: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    conv_channels: int
    num_mels: int = 128
    fft_size: int = 2048
    conv_kernel: int = 31
    unused_tensors: bool = False
    dropout: float = 0.0


class MuQEncoder(Encoder):
    """States: 0 is the convolutions' output with padding zeroed, k the output of layer k, the last one normalised.

    Args:
        model: the backbone.
        chunk_frames: samples of one chunk (720000 published), a multiple of 960.
    """

    Config = MuQArchitecture
    unused_prefixes = (
        "encoder.model.cls_token",
        "encoder.model.rvq.",
        "encoder.model.linear.",
        "encoder.model.conformer.pos_conv_embed.",
    )

    float32 = ("num_batches_tracked", "inv_freq")

    def __init__(self, model: MuQModel, chunk_frames: int) -> None:
        config = model.conformer.config
        nested = nn.ModuleDict({"model": model})  # published names begin with "encoder.model."
        super().__init__(nested, chunk_frames, config.hidden_size, config.num_hidden_layers + 1)

    @classmethod
    def from_config(cls, config: MuQArchitecture, features: FeatureConfig) -> MuQEncoder:
        """A randomly initialised encoder of the given sizes."""
        return cls(MuQModel(config, features.sample_rate), features.chunk_frames)

    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """See :meth:`Encoder.states`; ``chunks`` and ``mask`` are ``(chunks, samples)``."""
        # a frame counts if its first sample is audio
        return self.encoder.model(chunks, mask[:, ::SAMPLES_PER_FRAME])

    def calc_length(self, lengths: Lengths) -> Lengths:
        """One frame per 960 samples, rounded down."""
        return lengths // SAMPLES_PER_FRAME

    def computed_tensors(self) -> Mapping[str, Tensor]:
        """The frequencies of the rotary positions."""
        pairs = self.get_buffer(INV_FREQ).shape[0]
        return {INV_FREQ: 1.0 / ROTARY_BASE ** (torch.arange(0, 2 * pairs, 2).float() / (2 * pairs))}


class MuQModel(nn.Module):
    """Mel, convolutions and conformer, named as in the published checkpoint."""

    def __init__(self, config: MuQArchitecture, sample_rate: int) -> None:
        super().__init__()
        self.num_mels, self.fft_size, self.sample_rate = config.num_mels, config.fft_size, sample_rate
        self.conv = ConvSubsampling(config)
        self.conformer = Wav2Vec2ConformerEncoder(_conformer_config(config))
        if config.unused_tensors:
            register_unused_weights(self, _unused_shapes(config.width))
        else:
            self.conformer.pos_conv_embed = nn.Identity()  # transformers builds it; the forward never reads it

    def forward(self, samples: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """States of ``samples (chunks, n)`` with ``mask (chunks, n / 960)`` bool, one at a time."""
        # in float32, as the features of the other encoders, which are computed outside autocast
        with torch.autocast(samples.device.type, enabled=False):
            mel = muq_mel(samples, self.num_mels, self.fft_size, self.sample_rate)
        hidden = self.conv(mel.to(self.conv.linear.weight.dtype)).masked_fill(~mask[..., None], 0.0)
        attention_mask = create_bidirectional_mask(
            config=self.conformer.config, inputs_embeds=hidden, attention_mask=mask
        )
        positions = rotary_table(self.conformer.embed_positions.inv_freq, hidden)
        hidden = self.conformer.dropout(hidden)
        yield hidden
        for index, layer in enumerate(self.conformer.layers, start=1):
            hidden = layer(hidden, attention_mask=attention_mask, relative_position_embeddings=positions)
            yield self.conformer.layer_norm(hidden) if index == len(self.conformer.layers) else hidden


class ConvSubsampling(nn.Module):
    """Two residual 2-D convolution stages, each halving frequency and time, then a projection to the width."""

    def __init__(self, config: MuQArchitecture) -> None:
        super().__init__()
        channels = config.conv_channels
        self.conv = nn.Sequential(ResidualConv(1, channels), ResidualConv(channels, channels))
        self.linear = nn.Linear(channels * (config.num_mels // CONV_STRIDE), config.width)

    def forward(self, mel: Tensor) -> Tensor:
        """``(batch, mels, frames)`` -> ``(batch, frames / 4, width)``."""
        image = mel[:, None].to(memory_format=torch.channels_last)  # a third faster on CPU, the same numbers
        maps = self.conv(image)  # (batch, channels, mels / 4, frames / 4)
        return self.linear(maps.permute(0, 3, 1, 2).flatten(2))


class ResidualConv(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, plus a strided shortcut, then ReLU; stride 2 in both directions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """``(batch, inputs, mels, frames)`` -> ``(batch, outputs, mels / 2, frames / 2)``."""
        main = self.bn2(self.conv2(self.bn1(self.conv1(maps)).relu()))
        return (main + self.bn3(self.conv3(maps))).relu()


def rotary_table(frequencies: Tensor, hidden: Tensor) -> Tensor:
    """Cosines and sines ``(2, frames, 1, 1, head_size)`` for ``hidden (batch, frames, width)``.

    Computed here because transformers' own module caches the table for the first device and dtype it sees.
    """
    steps = torch.arange(hidden.shape[1], device=hidden.device, dtype=frequencies.dtype)
    angles = torch.outer(steps, frequencies).repeat(1, 2)[:, None, None]
    return torch.stack([angles.cos(), angles.sin()]).type_as(hidden)


def _conformer_config(config: MuQArchitecture) -> Wav2Vec2ConformerConfig:
    conformer = Wav2Vec2ConformerConfig(
        **conformer_sizes(config),
        position_embeddings_type="rotary",
        rotary_embedding_base=ROTARY_BASE,
        num_conv_pos_embedding_groups=math.gcd(16, config.width),  # never run, but transformers wants it to divide
        layer_norm_eps=1e-5,
    )
    conformer._attn_implementation = "sdpa"  # only a full transformers model would choose one by itself
    return conformer


def _unused_shapes(width: int) -> dict[str, tuple[int, ...]]:
    quantizer: dict[str, tuple[int, ...]] = {
        "stale_counter": (CODEBOOK_SIZE,),
        "in_proj.bias": (CODEBOOK_DIM,),
        "in_proj.weight_g": (CODEBOOK_DIM, 1, 1),
        "in_proj.weight_v": (CODEBOOK_DIM, CODEBOOK_INPUT, 1),
        "out_proj.bias": (CODEBOOK_INPUT,),
        "out_proj.weight_g": (CODEBOOK_INPUT, 1, 1),
        "out_proj.weight_v": (CODEBOOK_INPUT, CODEBOOK_DIM, 1),
        "codebook.weight": (CODEBOOK_SIZE, CODEBOOK_DIM),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"rvq.quantizers.{index}.{name}": shape for index in range(NUM_CODEBOOKS) for name, shape in quantizer.items()
    }
    return shapes | {"cls_token": (width,), "linear.weight": (NUM_LABELS, width), "linear.bias": (NUM_LABELS,)}
