"""Mono FLAC bytes at 24 kHz, 16 bits a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.miniature.world.synthesis import SAMPLE_RATE
from src.audio.decode import decode
from src.common.errors import UserError

_STEPS = 2.0**15


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """FLAC of ``samples`` (n,) in -1..1, rounded to 16 bits (the encoder then spends no bits on the rest)."""
    from torchcodec.encoders import AudioEncoder

    rounded = np.clip(np.round(samples * _STEPS), -_STEPS, _STEPS - 1) / _STEPS
    encoder = AudioEncoder(torch.from_numpy(rounded.astype(np.float32))[None], sample_rate=SAMPLE_RATE)
    return encoder.to_tensor("flac").numpy().tobytes()


def read_flac(source: Path | bytes) -> NDArray[np.float32]:
    """Mono samples (n,) of a file or of bytes written by :func:`encode_flac`.

    Raises:
        UserError: if the file is missing or is not audio at 24 kHz.
    """
    try:
        decoded = decode(source if isinstance(source, bytes) else Path(source), mono=True)
    except UserError as error:
        raise UserError(f"cannot read the sound {_label(source)}: {error}; expected FLAC at 24 kHz") from error
    if decoded.rate != SAMPLE_RATE:
        raise UserError(f"{_label(source)} has {decoded.rate} samples a second; expected {SAMPLE_RATE}")
    return decoded.samples[0]


def _label(source: Path | bytes) -> str:
    return f"({len(source)} bytes)" if isinstance(source, bytes) else str(source)
