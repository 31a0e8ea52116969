"""Spectral pieces shared by the extractors: batched Kaldi filterbank, log-mel spectrogram, masks."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers.audio_utils import mel_filter_bank

KALDI_FRAME = 400
KALDI_HOP = 160
KALDI_FFT = 512
KALDI_LOW_HZ = 20.0
KALDI_PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps
POWER_FLOOR = 1e-10
KALDI_EDGE = 160
"""Zeros added on both sides of a recording before it is framed."""


def prefix_mask(lengths: Tensor, frames: int) -> Tensor:
    """0/1 mask ``(batch, frames)`` int8 whose row i starts with ``lengths[i]`` ones."""
    mask = torch.ones(len(lengths), frames, dtype=torch.int8, device=lengths.device)
    return zero_beyond(mask, lengths)


def zero_beyond(rows: Tensor, lengths: Tensor) -> Tensor:
    """Set row i of ``rows (batch, n, ...)`` to zero from ``lengths[i]`` on, in place; returns ``rows``."""
    if rows.device.type == "cpu":  # by slices: to compare every position costs more than resampling the clip
        for row, length in zip(rows, lengths.tolist(), strict=True):
            row[length:] = 0
        return rows
    beyond = torch.arange(rows.shape[1], device=rows.device) >= lengths[:, None]
    return rows.masked_fill_(beyond.view(beyond.shape + (1,) * (rows.dim() - 2)), 0)


def pad_multiple(length: int, multiple: int) -> int:
    """Smallest multiple of ``multiple`` that is at least ``length``."""
    return -(-length // multiple) * multiple


def by_clip(compute: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``compute(batch)``, on a CPU one row at a time: intermediate results of one clip stay in the cache."""
    if batch.device.type != "cpu" or len(batch) < 2:
        return compute(batch)
    return torch.cat([compute(row) for row in batch.split(1)])


def power_spectrum(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex spectrum, without the square root that ``abs`` would take."""
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def kaldi_lengths(lengths: Tensor) -> Tensor:
    """Whole frames of recordings of ``lengths`` samples with the zero edges added."""
    return 1 + (lengths + 2 * KALDI_EDGE - KALDI_FRAME) // KALDI_HOP


def kaldi_fbank(samples: Tensor, window: Tensor, filters: Tensor) -> Tensor:
    """Kaldi log-mel filterbank of ``samples (batch, n)`` with zero edges -> ``(batch, frames, mels)``.

    Per frame: DC removed, pre-emphasis 0.97, ``window (400,)``, 512-point power spectrum, ``filters (257, mels)``,
    natural log with floor 1.19e-7; no dither, whole frames only. ``window`` begins with zero, as Hann and Povey do.
    """
    return by_clip(lambda clips: _kaldi_fbank(clips, window, filters), samples)


def _kaldi_fbank(samples: Tensor, window: Tensor, filters: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(samples, (KALDI_EDGE, KALDI_EDGE))
    # Pre-emphasis of the whole recording instead of every frame: it differs in a frame's first sample alone, whose
    # window is zero, and leaves (1 - 0.97) of the frame's mean.
    emphasised = padded.clone()
    emphasised[:, 1:] -= KALDI_PREEMPHASIS * padded[:, :-1]
    mean = padded.unfold(-1, KALDI_FRAME, KALDI_HOP).mean(dim=-1, keepdim=True)
    frames = emphasised.unfold(-1, KALDI_FRAME, KALDI_HOP) - (1 - KALDI_PREEMPHASIS) * mean
    power = power_spectrum(torch.fft.rfft(frames.mul_(window), n=KALDI_FFT))
    return (power @ filters).clamp_min_(LOG_FLOOR).log_()


@functools.lru_cache(maxsize=32)
def kaldi_filters(num_mels: int, sample_rate: int, device: torch.device) -> Tensor:
    """Triangular filters on Kaldi's mel scale from 20 Hz to the Nyquist rate, ``(257, num_mels)``."""
    # 100, -500 and 1 are Kaldi's defaults of VTLN, which a factor of 1 turns off. There is no weight for the Nyquist
    # rate; torchaudio's own ``fbank`` adds the zero in the same way.
    banks, _ = kaldi.get_mel_banks(num_mels, KALDI_FFT, float(sample_rate), KALDI_LOW_HZ, 0.0, 100.0, -500.0, 1.0)
    return torch.nn.functional.pad(banks, (0, 1)).T.contiguous().to(device)


@functools.lru_cache(maxsize=32)
def symmetric_hann(power: float, device: torch.device) -> Tensor:
    """Symmetric Hann window of a Kaldi frame raised to ``power``: 1 is Hann, 0.85 is Povey."""
    return torch.hann_window(KALDI_FRAME, periodic=False).pow(power).to(device)


def log10_mel(samples: Tensor, num_mels: int, fft_size: int, hop: int, sample_rate: int, scale: str) -> Tensor:
    """Log10 of the mel power of ``samples (batch, n)``, ``(batch, n // hop, num_mels)``, with floor 1e-10.

    Periodic Hann window, frames centred on every ``hop``-th sample; the last one, which begins with the end of the
    clip, is left out. ``scale``: ``slaney`` (area-normalised filters) or ``htk`` (peak 1), from 0 Hz to the Nyquist
    rate.
    """
    window, filters = _hann_and_mel(num_mels, fft_size, sample_rate, scale, samples.device)
    spectrum = torch.stft(samples, fft_size, hop, window=window, return_complex=True)
    power = power_spectrum(spectrum[..., :-1]).transpose(1, 2)
    return (power @ filters).clamp_min_(POWER_FLOOR).log10_()


@functools.lru_cache(maxsize=32)
def _hann_and_mel(
    num_mels: int, fft_size: int, sample_rate: int, scale: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Window ``(fft_size,)`` and filters ``(fft_size // 2 + 1, num_mels)``."""
    filters = mel_filter_bank(
        num_frequency_bins=fft_size // 2 + 1,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=sample_rate / 2,
        sampling_rate=sample_rate,
        norm="slaney" if scale == "slaney" else None,
        mel_scale=scale,
    )
    return torch.hann_window(fft_size).to(device), torch.from_numpy(filters).float().to(device)
