"""SSLAM features: Kaldi filterbank at 100 Hz without int16 scaling, Hann window, fixed normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import (
    kaldi_fbank,
    kaldi_filters,
    kaldi_lengths,
    pad_multiple,
    prefix_mask,
    symmetric_hann,
    zero_beyond,
)

# of AudioSet, as of EAT, from which SSLAM comes; both divide by twice the deviation:
# https://github.com/cwx-worst-one/EAT/blob/main/feature_extract/feature_extract.py
MEAN = -4.268
STD = 4.569


def sslam_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Features of ``samples (batch, n)``, zero beyond ``lengths (batch,)``.

    Returns features ``(batch, frames, mels)`` with frames a multiple of ``config.chunk_frames``, mask
    ``(batch, frames)`` and lengths in frames. Rows that pad a clip to its own multiple hold the normalised zero
    (0.467); rows that only pad the batch hold 0.
    """
    mean = samples.sum(dim=1, keepdim=True) / lengths[:, None]
    centred = zero_beyond(samples - mean, lengths)
    filters = kaldi_filters(config.num_mels, config.sample_rate, samples.device)
    fbank = kaldi_fbank(centred, symmetric_hann(1.0, samples.device), filters)

    frames = sslam_lengths(lengths, config)
    chunk = config.chunk_frames
    total = pad_multiple(fbank.shape[1], chunk)
    fbank = torch.nn.functional.pad(fbank, (0, 0, 0, total - fbank.shape[1]))
    # zeros go through the normalisation, as when the encoder was trained
    features = zero_beyond(fbank, frames).sub_(MEAN).div_(2 * STD)
    own_total = -(-frames // chunk) * chunk
    return zero_beyond(features, own_total), prefix_mask(frames, total), frames


def sslam_lengths(lengths: Tensor, config: FeatureConfig) -> Tensor:
    """Frames of clips of ``lengths (batch,)`` samples."""
    return kaldi_lengths(lengths)
