"""MuQ features: the samples themselves, and the mel spectrogram that the encoder computes from each chunk of them."""

from __future__ import annotations

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import log10_mel, pad_multiple, prefix_mask

HOP = 240
# melspec_2048 of MuQ's own statistics: those of other FFT sizes differ
MEL_MEAN = 6.768444971712967
MEL_STD = 18.417922652295623


def muq_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """``samples (batch, n)`` zero-padded to a multiple of ``config.chunk_frames``, their mask, and ``lengths``."""
    total = pad_multiple(samples.shape[1], config.chunk_frames)
    return torch.nn.functional.pad(samples, (0, total - samples.shape[1])), prefix_mask(lengths, total), lengths


def muq_lengths(lengths: Tensor, config: FeatureConfig) -> Tensor:
    """``lengths (batch,)``: the features are the samples."""
    return lengths


@torch.no_grad()
def muq_mel(samples: Tensor, num_mels: int, fft_size: int, sample_rate: int) -> Tensor:
    """Normalised mel spectrogram ``(batch, num_mels, n // 240)`` of ``samples (batch, n)``, in float32.

    HTK mel filters on a power spectrum of ``fft_size`` points (2048 published) every 240 samples, in dB with floor
    1e-10, then (x - 6.77) / 18.4, the statistics of the encoder's training corpus.
    """
    decibel = 10.0 * log10_mel(samples.float(), num_mels, fft_size, HOP, sample_rate, "htk")
    return ((decibel - MEL_MEAN) / MEL_STD).transpose(1, 2)
