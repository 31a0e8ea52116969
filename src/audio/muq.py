"""MuQ features: the samples themselves; its mel spectrogram is computed inside the encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import pad_multiple, prefix_mask


def muq_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """``samples (batch, n)`` zero-padded to a multiple of ``config.chunk_frames``, their mask, and ``lengths``."""
    total = pad_multiple(samples.shape[1], config.chunk_frames)
    return torch.nn.functional.pad(samples, (0, total - samples.shape[1])), prefix_mask(lengths, total), lengths
