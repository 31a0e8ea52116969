"""Features of encoders from transformers: samples, normalised or not, and spectrograms of transformers' own code.

The settings are those of the model's ``preprocessor_config.json``, in :attr:`FeatureConfig.extractor`.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.spectral import prefix_mask

VARIANCE_FLOOR = 1e-7
"""Added to the variance by transformers' Wav2Vec2FeatureExtractor."""
SPECTROGRAMS = {"ASTFeatureExtractor": "input_values", "ClapFeatureExtractor": "input_features"}
"""Feature extractors of transformers that give one spectrogram of fixed length per chunk -> key of their result."""
AST_HOP = 160


def waveform_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Samples ``(batch, n)``, zero beyond ``lengths (batch,)``, as a wav2vec 2.0 feature extractor gives them.

    With ``do_normalize`` (the extractor's default) each clip has zero mean and unit variance over its own samples.
    Returns features ``(batch, n)``, mask ``(batch, n)`` and lengths in samples.
    """
    mask = prefix_mask(lengths, samples.shape[1])
    if (config.extractor or {}).get("do_normalize", True):
        valid = mask.bool()
        count = lengths[:, None]
        mean = samples.sum(dim=1, keepdim=True) / count
        centred = (samples - mean).masked_fill_(~valid, 0.0)
        variance = centred.square().sum(dim=1, keepdim=True) / count
        samples = centred.div_((variance + VARIANCE_FLOOR).sqrt())
    return samples, mask, lengths


def spectrogram_features(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrograms of ``samples (batch, n)``, chunk by chunk, by transformers' own code (AST, CLAP), on the CPU.

    Each chunk of a clip is given to the extractor alone, so a clip's features do not depend on its batch. Returns
    features ``(batch, frames, bins)`` with frames a multiple of ``config.chunk_frames``, zero in chunks past the end
    of a clip; mask ``(batch, frames)``; lengths in frames of audio, the extractor's own padding not counted.
    """
    extractor = feature_extractor(config)
    piece = chunk_samples(config)
    chunks = -(-int(lengths.max()) // piece)
    result: Tensor | None = None
    for row, (clip, length) in enumerate(zip(samples.cpu(), lengths.tolist(), strict=True)):
        for index, part in enumerate(clip[:length].split(piece)):
            spectrogram = _spectrogram(extractor, part, config)
            if result is None:
                result = spectrogram.new_zeros(len(samples), chunks, *spectrogram.shape)
            result[row, index] = spectrogram
    assert result is not None
    frames = spectrogram_lengths(lengths, config)
    mask = prefix_mask(frames, chunks * config.chunk_frames)
    return result.flatten(1, 2).to(samples.device), mask, frames


def spectrogram_lengths(lengths: Tensor, config: FeatureConfig) -> Tensor:
    """Frames of clips of ``lengths (batch,)`` samples."""
    piece = chunk_samples(config)
    whole, rest = lengths // piece, lengths % piece
    return whole * config.chunk_frames + (-(-rest // hop_length(config))).clamp(max=config.chunk_frames)


def _spectrogram(extractor: Any, samples: Tensor, config: FeatureConfig) -> Tensor:
    """``(chunk_frames, bins)`` of at most one chunk of samples ``(n,)``."""
    least = 400  # Kaldi's frame: the shortest input of which the filterbank has a frame
    samples = torch.nn.functional.pad(samples, (0, max(0, least - len(samples))))
    given = extractor(samples.numpy(), sampling_rate=config.sample_rate, return_tensors="np")
    values = given[SPECTROGRAMS[type(extractor).__name__]][0]
    # CLAP's fusion models get the same spectrogram four times for clips that are not longer than a chunk
    values = values[0] if values.ndim == 3 else values
    return torch.from_numpy(values).float()


def chunk_samples(config: FeatureConfig) -> int:
    """Samples of one chunk of a spectrogram."""
    extractor = feature_extractor(config)
    if hasattr(extractor, "nb_max_samples"):
        return int(extractor.nb_max_samples)
    return config.chunk_frames * AST_HOP


def hop_length(config: FeatureConfig) -> int:
    """Samples from one frame of a spectrogram to the next."""
    return int(getattr(feature_extractor(config), "hop_length", AST_HOP))


def feature_extractor(config: FeatureConfig) -> Any:
    """transformers' feature extractor of ``config.extractor``."""
    return _feature_extractor(json.dumps(config.extractor, sort_keys=True))  # dicts are no keys of a cache


@functools.lru_cache(maxsize=16)
def _feature_extractor(settings: str) -> Any:
    import transformers

    values = json.loads(settings)
    name = values.get("feature_extractor_type")
    if name not in SPECTROGRAMS:
        raise ValueError(f"feature_extractor_type: got {name!r}, expected one of {', '.join(SPECTROGRAMS)}")
    return getattr(transformers, name).from_dict(values)
