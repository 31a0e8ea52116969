"""Any form of audio -> :class:`Waveform`: path, URL, bytes, data-set cell, torchcodec decoder or array."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.audio.arrays import scale_array
from src.audio.decode import DEFAULT, DecodeLimits, cell_source, decode
from src.audio.errors import AudioError, AudioFault, first_line
from src.audio.mixing import check_range, to_mono

__all__ = ["AudioError", "AudioFault", "Waveform", "load_waveform"]
MISREAD = ("adpcm",)
"""Codecs of which torchcodec decodes only a part, without an error."""
EXACT = ("pcm_", "flac", "alac")
_MOST_BYTES, _MOST_SECONDS, _WAIT_SECONDS = 1 << 30, 300.0, 20.0
"""Bounds of a download from an address that the user gives: bytes, time, and time without an answer."""


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
        """Mean over channels, ``(n,)``; the loudest channel where the channels cancel each other."""
        if self.samples.shape[0] == 1:
            return self.samples[0]
        return torch.from_numpy(to_mono(self.samples.numpy()))


def load_waveform(
    source: Any,
    sample_rate: int | None = None,
    max_seconds: float = math.inf,
    roots: Sequence[Path] | None = None,
    limits: DecodeLimits = DEFAULT,
) -> Waveform:
    """Decode ``source`` at its own rate.

    Args:
        source: a :class:`Waveform`; a path or http(s) URL; encoded bytes; a data-set cell ``{"bytes", "path"}`` or
            ``{"array", "sampling_rate"}``; a torchcodec ``AudioDecoder`` (anything with ``get_all_samples``); or an
            array or tensor ``(n,)`` or ``(channels, n)`` together with ``sample_rate``, scaled by its type as
            :func:`src.audio.arrays.scale_array` says.
        sample_rate: samples per second of an array; ignored for the other forms, which carry their own.
        max_seconds: longer audio is an error, found before all of it is decoded.
        roots: folders in which the path of a data-set cell may lie (:mod:`src.audio.roots`); ``None``: anywhere.
        limits: what the clip may cost.

    Raises:
        AudioError: the file is missing, unreadable, damaged, holds no samples or samples that are not finite; it is
            named. Also for a ``source`` of another form.
    """
    if max_seconds < limits.seconds:
        limits = replace(limits, seconds=max_seconds)
    if isinstance(source, Waveform):
        return _checked(source, "waveform", limits)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _decoded(_fetch(source), source, limits)
    if isinstance(source, (str, Path)):
        return _decoded(Path(source), "", limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decoded(bytes(source), "", limits)
    if isinstance(source, Mapping):
        if source.get("array") is not None:
            name = str(source.get("path") or "audio cell")
            return _from_array(source["array"], source.get("sampling_rate"), name, limits)
        return _decoded(*cell_source(source, roots), limits)
    if hasattr(source, "get_all_samples"):
        return _from_decoder(source, roots, limits)
    if isinstance(source, (Tensor, np.ndarray, list, tuple)):
        return _from_array(source, sample_rate, "audio array", limits)
    raise AudioError(
        f"audio: got {type(source).__name__}, expected a path, URL, bytes, array, data-set cell or AudioDecoder"
    )


def _decoded(source: Path | bytes, name: str, limits: DecodeLimits) -> Waveform:
    found = decode(source, name, limits)
    return Waveform(torch.from_numpy(found.samples), found.rate)


def _fetch(url: str) -> bytes:
    """The bytes at ``url``. Raises :class:`AudioError` if they cannot be had, or are too many."""
    until = time.monotonic() + _MOST_SECONDS
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=_WAIT_SECONDS) as answer:
            while piece := answer.read(1 << 20):
                content += piece
                if len(content) > _MOST_BYTES or time.monotonic() > until:
                    raise AudioError(
                        f"{url}: more than {_MOST_BYTES >> 20} MiB or {_MOST_SECONDS:g} s; not read", "too_long"
                    )
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise AudioError(
            f"{url}: cannot be read ({first_line(error)}); check the address", "missing_audio"
        ) from error
    return bytes(content)


def _from_decoder(decoder: Any, roots: Sequence[Path] | None, limits: DecodeLimits) -> Waveform:
    """A torchcodec decoder: what ``datasets`` makes carries the encoded cell, which is decoded here.

    Of one that the caller made only its samples can be had: codecs that torchcodec is known to misread are refused.
    """
    cell = getattr(decoder, "_hf_encoded", None)  # set by datasets' Audio.decode_example, and private there
    if isinstance(cell, Mapping) and (cell.get("bytes") is not None or cell.get("path")):
        return _decoded(*cell_source(cell, roots), limits)
    about = getattr(decoder, "metadata", None)
    codec = str(getattr(about, "codec", None) or "")
    if codec.startswith(MISREAD):
        raise AudioError(
            f"audio decoder: torchcodec misreads {codec}; give the path or the bytes instead of a decoder"
        )
    stated = (getattr(about, "duration_seconds", None) or 0.0) if codec.startswith(EXACT) else 0.0
    if stated > limits.seconds:
        raise AudioError(
            f"audio decoder: more than {limits.seconds:g} s of audio ({stated:.0f} s stated)", "too_long"
        )
    try:
        made = decoder.get_all_samples()
    except (RuntimeError, ValueError, IndexError) as error:
        raise AudioError(
            f"audio decoder: cannot be read as audio ({first_line(error)}); check that the file is whole"
        ) from error
    waveform = _checked(Waveform(made.data.float(), int(made.sample_rate)), "audio decoder", limits)
    if waveform.duration < 0.99 * stated and stated - waveform.duration > 1 / waveform.sample_rate:
        raise AudioError(
            f"audio decoder: gives {waveform.duration:.2f} s of the {stated:.2f} s that the header states"
        )
    return waveform


def _from_array(array: Any, sample_rate: int | None, name: str, limits: DecodeLimits) -> Waveform:
    if not isinstance(sample_rate, (int, float, np.number)) or sample_rate % 1 != 0 or sample_rate <= 0:
        raise AudioError(
            f"{name}: got sampling rate {sample_rate!r}, expected a positive whole number of samples per second"
        )
    samples = np.ascontiguousarray(scale_array(array, name))
    if not samples.flags.writeable:
        samples = samples.copy()
    return _checked(Waveform(torch.from_numpy(samples), int(sample_rate)), name, limits)


def _checked(waveform: Waveform, name: str, limits: DecodeLimits) -> Waveform:
    low, high = limits.rates
    if not low <= waveform.sample_rate <= high:  # as of files: others take any time and memory to resample
        raise AudioError(f"{name}: {waveform.sample_rate} samples per second, expected {low} to {high}")
    if waveform.samples.ndim != 2:
        raise AudioError(f"{name}: got samples of shape {tuple(waveform.samples.shape)}, expected (channels, n)")
    if waveform.samples.numel() == 0:
        raise AudioError(f"{name}: holds no audio samples; replace it or leave it out", "empty_audio")
    if waveform.duration > limits.seconds:
        raise AudioError(
            f"{name}: {waveform.duration:.0f} s of audio, expected at most {limits.seconds:g} s", "too_long"
        )
    check_range(waveform.samples.numpy(), name)
    return waveform
