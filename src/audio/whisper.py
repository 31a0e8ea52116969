"""Whisper features: log-mel at 100 Hz, each chunk-long piece of the recording normalised by its own maximum."""

from __future__ import annotations

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import by_clip, log10_mel, pad_multiple, prefix_mask

FFT = 400
HOP = 160
DYNAMIC_RANGE = 8.0
"""Decades below the maximum of a piece at which its log-mel is clamped."""


def whisper_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Features of ``samples (batch, n)``, zero beyond ``lengths (batch,)``.

    Returns features ``(batch, frames, mels)`` with frames a multiple of ``config.chunk_frames``, zero in pieces past
    the end of a clip; mask ``(batch, frames)``; lengths in frames, ceil(n / 160).
    """
    batch, piece = samples.shape[0], config.chunk_frames * HOP
    total = pad_multiple(samples.shape[1], piece)
    pieces = torch.nn.functional.pad(samples, (0, total - samples.shape[1])).view(-1, piece)
    starts = torch.arange(0, total, piece, device=samples.device)
    used = (starts < lengths[:, None]).flatten()  # pieces that only pad the batch cost nothing
    if bool(used.all()):
        features = by_clip(lambda some: _log_mel(some, config), pieces)
    else:
        features = samples.new_zeros(len(pieces), config.chunk_frames, config.num_mels)
        features[used] = by_clip(lambda some: _log_mel(some, config), pieces[used])
    frames = whisper_lengths(lengths, config)
    return features.view(batch, -1, config.num_mels), prefix_mask(frames, total // HOP), frames


def whisper_lengths(lengths: Tensor, config: FeatureConfig) -> Tensor:
    """Frames of clips of ``lengths (batch,)`` samples."""
    return -(-lengths // HOP)


def _log_mel(pieces: Tensor, config: FeatureConfig) -> Tensor:
    """Normalised log-mel ``(pieces, frames, mels)`` of ``(pieces, samples)``."""
    # clamped and scaled as by OpenAI: https://github.com/openai/whisper/blob/main/whisper/audio.py
    log_mel = log10_mel(pieces, config.num_mels, FFT, HOP, config.sample_rate, "slaney")
    floor = log_mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE
    return log_mel.maximum(floor).add_(4.0).div_(4.0)
