"""w2v-BERT features: Kaldi filterbank of the whole recording, normalised per mel bin, two frames per row (50 Hz)."""

from __future__ import annotations

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import kaldi_fbank, kaldi_filters, kaldi_lengths, prefix_mask, symmetric_hann, zero_beyond

SAMPLE_SCALE = 2.0**15  # Kaldi counts in steps of 16 bits, which places its floor of the energies
POVEY_POWER = 0.85
VARIANCE_FLOOR = 1e-7
PADDING_VALUE = 1.0
"""Value of the one frame that makes an odd number of frames even: ``padding_value`` of facebook/w2v-bert-2.0."""


def w2vbert_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Features of ``samples (batch, n)``, zero beyond ``lengths (batch,)``.

    Returns features ``(batch, rows, 2 * mels)``, mask ``(batch, rows)`` and lengths in rows. An odd last frame is
    kept in the array but not counted, so a clip may have one row more than its length.
    """
    filters = kaldi_filters(config.num_mels, config.sample_rate, samples.device)
    window = symmetric_hann(POVEY_POWER, samples.device)
    fbank = kaldi_fbank(samples * SAMPLE_SCALE, window, filters)
    frames = kaldi_lengths(lengths)
    total = fbank.shape[1] + fbank.shape[1] % 2
    fbank = torch.nn.functional.pad(fbank, (0, 0, 0, total - fbank.shape[1]))
    normalised = _normalise(fbank, frames)
    position = torch.arange(total, device=samples.device)
    odd = ((position == frames[:, None]) & (frames % 2 == 1)[:, None])[..., None]
    normalised.masked_fill_(odd, PADDING_VALUE)
    rows = w2vbert_lengths(lengths, config)
    return normalised.reshape(len(samples), total // 2, -1), prefix_mask(rows, total // 2), rows


def w2vbert_lengths(lengths: Tensor, config: FeatureConfig) -> Tensor:
    """Rows of clips of ``lengths (batch,)`` samples."""
    return kaldi_lengths(lengths) // 2


def _normalise(fbank: Tensor, frames: Tensor) -> Tensor:
    """Zero mean and unit variance of each mel bin over a clip's ``frames``, in place; zero beyond them."""
    counts = frames[:, None, None]
    mean = zero_beyond(fbank, frames).sum(dim=1, keepdim=True) / counts
    centred = zero_beyond(fbank.sub_(mean), frames)
    # transformers divides by n - 1 here (feature_extraction_seamless_m4t.py), by n for wav2vec 2.0
    variance = centred.square().sum(dim=1, keepdim=True) / (counts - 1)
    return centred.div_((variance + VARIANCE_FLOOR).sqrt())
