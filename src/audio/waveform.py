"""Any form of audio -> :class:`Waveform`: path, URL, bytes, data-set cell, torchcodec decoder or array."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.common.errors import UserError

AudioFault = Literal["missing_audio", "empty_audio", "unreadable_audio", "too_long"]


class AudioError(UserError):
    """Audio that cannot be used; ``fault`` says in which way."""

    def __init__(self, message: str, fault: AudioFault = "unreadable_audio") -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Waveform:
    """Decoded audio: ``samples (channels, n)`` float32 in about [-1, 1] and ``sample_rate`` in samples per second."""

    samples: Tensor
    sample_rate: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate

    @property
    def mono(self) -> Tensor:
        """Mean over channels, ``(n,)``."""
        return self.samples[0] if self.samples.shape[0] == 1 else self.samples.mean(dim=0)


def load_waveform(source: Any, sample_rate: int | None = None, max_seconds: float = math.inf) -> Waveform:
    """Decode ``source`` at its own rate.

    Args:
        source: a :class:`Waveform`; a path or http(s) URL; encoded bytes; a data-set cell ``{"bytes", "path"}`` or
            ``{"array", "sampling_rate"}``; a torchcodec ``AudioDecoder`` (anything with ``get_all_samples``); or an
            array or tensor ``(n,)`` or ``(channels, n)`` together with ``sample_rate``. Integer arrays are scaled to
            [-1, 1]; a two-dimensional array with more rows than columns is taken as ``(n, channels)``.
        sample_rate: samples per second of an array; ignored for the other forms, which carry their own.
        max_seconds: longer encoded audio is an error; where its header tells the length, before it is decoded.

    Raises:
        AudioError: the file is missing, unreadable, holds no samples or samples that are not finite; it is named.
            Also for a ``source`` of another form.
    """
    if isinstance(source, Waveform):
        return _checked(source, "waveform")
    if isinstance(source, (str, Path)):
        return _from_path(str(source), max_seconds)
    if isinstance(source, (bytes, bytearray)):
        return _decode(bytes(source), f"audio bytes ({len(source)} bytes)", max_seconds)
    if isinstance(source, Mapping):
        return _from_cell(source, max_seconds)
    if hasattr(source, "get_all_samples"):
        return _from_decoder(source, "audio decoder", max_seconds)
    if isinstance(source, (Tensor, np.ndarray, list, tuple)):
        return _from_array(source, sample_rate, "audio array")
    raise AudioError(
        f"audio: got {type(source).__name__}, expected a path, URL, bytes, array, data-set cell or AudioDecoder"
    )


def _from_cell(cell: Mapping[str, Any], max_seconds: float) -> Waveform:
    name = str(cell.get("path") or "audio cell")
    if cell.get("array") is not None:
        return _from_array(cell["array"], cell.get("sampling_rate"), name)
    if cell.get("bytes") is not None:
        return _decode(cell["bytes"], name, max_seconds)
    if cell.get("path"):
        return _from_path(name, max_seconds)
    raise AudioError(
        f"audio cell with keys {sorted(cell)}: expected 'array' and 'sampling_rate', 'bytes', or 'path'",
        "missing_audio",
    )


def _from_path(path: str, max_seconds: float) -> Waveform:
    if path.startswith(("http://", "https://")):
        return _decode(path, path, max_seconds)
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise AudioError(f"audio file {path} {what}; give the path of an audio file", "missing_audio")
    if Path(path).stat().st_size == 0:
        raise AudioError(f"audio file {path} is empty (0 bytes); replace it or leave it out", "empty_audio")
    return _decode(path, path, max_seconds)


def _decode(encoded: str | bytes, name: str, max_seconds: float) -> Waveform:
    if not encoded:
        raise AudioError(f"{name}: is empty (0 bytes); replace it or leave it out", "empty_audio")
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"{name}: audio cannot be decoded because torchcodec does not load ({_first_line(error)}); "
            "install torchcodec and FFmpeg as the README says"
        ) from error
    try:
        decoder = AudioDecoder(encoded)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _unreadable(name, error) from error
    return _from_decoder(decoder, name, max_seconds)


def _from_decoder(decoder: Any, name: str, max_seconds: float) -> Waveform:
    seconds = getattr(getattr(decoder, "metadata", None), "duration_seconds", None) or 0.0
    if seconds > max_seconds:
        raise AudioError(f"{name}: {seconds:.0f} s of audio, expected at most {max_seconds:.0f} s", "too_long")
    bounded = math.isfinite(max_seconds) and hasattr(decoder, "get_samples_played_in_range")
    try:
        # a header may lie, or say nothing: a second more than is allowed shows it
        decoded = decoder.get_samples_played_in_range(0.0, max_seconds + 1) if bounded else decoder.get_all_samples()
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unreadable(name, error) from error
    seconds = decoded.data.shape[-1] / max(1, int(decoded.sample_rate))
    if seconds > max_seconds:
        raise AudioError(f"{name}: more than {max_seconds:.0f} s of audio", "too_long")
    return _checked(Waveform(decoded.data.float(), int(decoded.sample_rate)), name)


def _from_array(array: Any, sample_rate: int | None, name: str) -> Waveform:
    if not sample_rate or sample_rate <= 0:
        raise AudioError(f"{name}: got sampling rate {sample_rate}, expected a positive number of samples per second")
    samples = torch.as_tensor(array)
    if not samples.is_floating_point():
        samples = samples.float() / (torch.iinfo(samples.dtype).max + 1)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2:
        raise AudioError(f"{name}: got an array of shape {tuple(samples.shape)}, expected (n,) or (channels, n)")
    if samples.shape[0] > samples.shape[1] > 0:
        samples = samples.T
    return _checked(Waveform(samples.float().contiguous(), int(sample_rate)), name)


def _checked(waveform: Waveform, name: str) -> Waveform:
    if waveform.samples.numel() == 0:
        raise AudioError(f"{name}: holds no audio samples; replace it or leave it out", "empty_audio")
    if not torch.isfinite(waveform.samples).all():
        raise AudioError(f"{name}: holds samples that are not finite (NaN or infinity); replace it or leave it out")
    return waveform


def _unreadable(name: str, error: Exception) -> AudioError:
    return AudioError(f"{name}: cannot be read as audio ({_first_line(error)}); check that the file is whole")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
