"""Hearing files in worker processes: durations by decoding, cuts, mono at 16 kHz, 16-bit WAV.

WAV and FLAC go through libsndfile, which needs no PyTorch; everything else through torchcodec.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.common.errors import UserError

RATE = 16000
"""Samples per second of everything that is written anew."""
Samples = NDArray[np.float32]
_BLOCK = 1 << 18
_SNDFILE = (b"RIFF", b"fLaC", b"RF64")


def seconds_of(source: Path | bytes, name: str = "") -> float:
    """Length by decoding the whole file: samples at its own rate. Raises :class:`UserError` naming the file."""
    label = name or str(source)
    if _for_sndfile(source, label):
        import soundfile

        try:
            with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                buffer = np.empty((_BLOCK, file.channels), np.int16)
                count = 0
                while read := len(file.read(out=buffer)):
                    count += read
                if count == 0:
                    raise UserError(f"{label}: holds no audio samples")
                return count / int(file.samplerate)
        except (soundfile.LibsndfileError, ValueError):
            pass  # a form that libsndfile does not know; torchcodec may, and names what is wrong if not
    samples, rate = _decode(source, label)
    return float(samples.shape[1] / rate)


def can_be_heard(data: bytes, name: str) -> None:
    """Decode the first 10 ms. Raises :class:`UserError` naming the file if that fails, or nothing is there."""
    if _for_sndfile(data, name):
        import soundfile

        with contextlib.suppress(soundfile.LibsndfileError), soundfile.SoundFile(io.BytesIO(data)) as file:
            if len(file.read(max(1, file.samplerate // 100))):
                return
    from torchcodec.decoders import AudioDecoder

    try:
        heard = AudioDecoder(data).get_samples_played_in_range(0.0, 0.01).data.shape[-1]
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{name}: cannot be read as audio ({' '.join(str(error).split())[:200]})") from error
    if not heard:
        raise UserError(f"{name}: holds no audio samples")


def read(source: Path | bytes, name: str = "") -> tuple[Samples, int]:
    """All samples ``(channels, n)`` and their rate. Raises :class:`UserError` naming the file."""
    label = name or str(source)
    if _for_sndfile(source, label):
        import soundfile

        try:
            data, rate = soundfile.read(
                io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32", always_2d=True
            )
        except (soundfile.LibsndfileError, ValueError):
            pass
        else:
            return data.T, int(rate)
    return _decode(source, label)


def read_mono(source: Path | bytes, name: str = "") -> Samples:
    """Mean over channels at 16 kHz, ``(n,)``."""
    samples, rate = read(source, name)
    return to_rate(mono(samples), rate)[0]


def mono(samples: Samples) -> Samples:
    """Mean over channels, kept as one: ``(1, n)``."""
    return samples if samples.shape[0] == 1 else samples.mean(axis=0, keepdims=True)


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
    steps = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, steps.T, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _for_sndfile(source: Path | bytes, label: str) -> bool:
    if isinstance(source, bytes):
        head = source[:4]
    else:
        try:
            with source.open("rb") as file:
                head = file.read(4)
        except OSError as error:
            raise UserError(f"{label}: {error.strerror or error}") from error
    if not head:
        raise UserError(f"{label}: empty (0 bytes)")
    return head in _SNDFILE


def _decode(source: Path | bytes, label: str) -> tuple[Samples, int]:
    from src.audio.waveform import load_waveform

    cell = {"bytes": source, "path": label} if isinstance(source, bytes) else str(source)
    waveform = load_waveform(cell)
    samples: Samples = waveform.samples.numpy()
    return samples, waveform.sample_rate


class Cuts:
    """Stretches of one file, read without the rest of it where the format allows."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`UserError` if the file cannot be read."""
        self._whole: Samples | None = None
        self._file = None
        self.path = path
        if _for_sndfile(path, str(path)):
            import soundfile

            with contextlib.suppress(soundfile.LibsndfileError):
                self._file = soundfile.SoundFile(path)
                self.rate = int(self._file.samplerate)
        if self._file is None:
            self._whole, self.rate = _decode(path, str(path))

    def read(self, start: int, stop: int) -> Samples:
        """Samples ``start`` to ``stop`` of the file's own rate, ``(channels, n)``; fewer where the file ends."""
        if self._file is None:
            assert self._whole is not None
            return self._whole[:, start:stop]
        if start >= self._file.frames or stop <= start:
            return np.zeros((self._file.channels, 0), np.float32)
        self._file.seek(start)
        data: Samples = self._file.read(stop - start, dtype="float32", always_2d=True).T
        return data
