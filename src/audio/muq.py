"""MuQ features: the samples themselves, and the mel spectrogram that the encoder computes from each chunk of them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import mel_filters, pad_multiple, power_spectrum, prefix_mask

HOP = 240
POWER_FLOOR = 1e-10
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
    samples = samples.float()
    spectrum = torch.stft(samples, fft_size, HOP, window=_window(fft_size, samples.device), return_complex=True)
    power = power_spectrum(spectrum[..., :-1]).transpose(1, 2)
    filters = mel_filters(num_mels, fft_size, sample_rate, "htk", samples.device)
    decibel = 10.0 * (power @ filters).clamp_min(POWER_FLOOR).log10()
    return ((decibel - MEL_MEAN) / MEL_STD).transpose(1, 2)


@functools.lru_cache(maxsize=8)
def _window(fft_size: int, device: torch.device) -> Tensor:
    return torch.hann_window(fft_size).to(device)
