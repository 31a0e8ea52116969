"""Audio of rows: durations by decoding, mono at 16 kHz, 16-bit WAV. PyTorch is needed for resampling only."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from src.audio.decode import Cuts, Samples, decode, measure
from src.audio.mixing import to_mono
from src.common.errors import UserError

__all__ = ["RATE", "Cuts", "Samples", "encode_wav", "mono", "read_mono", "seconds_of", "to_rate"]
RATE = 16000
"""Samples per second of all audio that is encoded again."""


def seconds_of(source: Path | bytes, name: str = "") -> float:
    """Length by decoding the whole file: samples at its own rate. Raises :class:`UserError` naming the file."""
    samples, rate = measure(source, name)
    return samples / rate


def read_mono(source: Path | bytes, name: str = "") -> Samples:
    """One channel (:func:`src.audio.mixing.to_mono`) at 16 kHz, ``(n,)``."""
    found = decode(source, name, mono=True)
    return to_rate(found.samples, found.rate)[0]


def mono(samples: Samples) -> Samples:
    """Channels mixed to one (:func:`src.audio.mixing.to_mono`): ``(1, n)``."""
    return to_mono(samples)[None]


def to_rate(samples: Samples, rate: int) -> Samples:
    """``samples (channels, n)`` at 16 kHz."""
    if rate == RATE or samples.shape[1] == 0:
        return samples
    import torch

    from src.audio.resample import resample

    batch = torch.from_numpy(np.ascontiguousarray(samples))
    lengths = torch.full((batch.shape[0],), batch.shape[1], dtype=torch.long)
    resampled: Samples = resample(batch, lengths, rate, RATE)[0].numpy()
    return resampled


def encode_wav(samples: Samples) -> bytes:
    """16-bit WAV at 16 kHz of ``samples (n,)`` or ``(channels, n)`` in -1..1, rounded to the nearest step."""
    import soundfile

    if samples.size == 0:
        raise UserError("the cut holds no audio samples")
    # soundfile turns on libsndfile's clipping, which cuts the low bits off instead of rounding: f2les_clip_array in
    # https://github.com/libsndfile/libsndfile/blob/1.2.2/src/pcm.c
    steps = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps.T, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
