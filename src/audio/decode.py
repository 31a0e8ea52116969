"""The one decoder: a file, bytes, or a data-set cell becomes float32 samples. Needs NumPy and PyAV, not PyTorch.

What is opened, and what is an error, is said in :mod:`src.audio.stream`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.budget import Reservation
from src.audio.errors import AudioError
from src.audio.mixing import ChannelLevels, check_range
from src.audio.roots import inside
from src.audio.stream import CLIENT_CODECS, CLIENT_FORMATS, DEFAULT, LOSS, AudioStream, DecodeLimits, Samples

__all__ = [
    "CLIENT_CODECS",
    "CLIENT_FORMATS",
    "DEFAULT",
    "Cuts",
    "DecodeLimits",
    "Decoded",
    "Samples",
    "cell_source",
    "decode",
    "measure",
]
_FIRST_CAPACITY = 1 << 15
"""Samples for which memory is taken where nothing says how many there will be."""


@dataclass(frozen=True)
class Decoded:
    """Samples ``(channels, n)`` float32 of full scale 1, at ``rate`` samples per second; FFmpeg's container name."""

    samples: Samples
    rate: int
    container: str


def decode(source: Path | bytes, name: str = "", limits: DecodeLimits = DEFAULT, mono: bool = False) -> Decoded:
    """All samples of a file or of its bytes.

    Args:
        name: what messages call the source; default: its path.
        mono: mix the channels while decoding, as :func:`src.audio.mixing.to_mono` does, and return one.

    Raises:
        AudioError: the file is missing, not audio of a known kind, damaged (more than 1 % of what its header or its
            packets promise is missing), empty, beyond a limit, or holds samples that are not finite.
    """
    with AudioStream(source, name, limits) as stream:
        levels = ChannelLevels(stream.channels)
        buffer = _Buffer(1 if mono else stream.channels, stream, limits)
        with contextlib.ExitStack() as undo:
            undo.callback(buffer.release)
            for block in stream:
                if mono and block.shape[0] > 1:
                    levels.add(block)
                    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                        block = block.mean(axis=0, keepdims=True)
                buffer.append(block)
            samples = buffer.finish(limits.hold_memory)
            undo.pop_all()
    check_range(samples, stream.name)
    if mono and levels.silent_mean(samples[0]):
        return Decoded(_one_channel(source, levels.loudest, stream.name, limits), stream.rate, stream.container)
    return Decoded(samples, stream.rate, stream.container)


def _one_channel(source: Path | bytes, channel: int, name: str, limits: DecodeLimits) -> Samples:
    with AudioStream(source, name, limits) as stream:
        buffer = _Buffer(1, stream, limits)
        with contextlib.ExitStack() as undo:
            undo.callback(buffer.release)
            for block in stream:
                buffer.append(block[channel : channel + 1])
            samples = buffer.finish(limits.hold_memory)
            undo.pop_all()
    return samples


def measure(source: Path | bytes, name: str = "", limits: DecodeLimits = DEFAULT) -> tuple[int, int]:
    """Samples per channel and their rate, by decoding everything and keeping nothing. Raises as :func:`decode`."""
    with AudioStream(source, name, limits) as stream:
        for block in stream:
            check_range(block, stream.name)
        return stream.decoded, stream.rate


def cell_source(
    cell: Mapping[str, Any], roots: Sequence[Path] | None = None, fallback: str = "audio cell"
) -> tuple[Path | bytes, str]:
    """Bytes or path of an encoded data-set cell ``{"bytes", "path"}``, and a name for messages.

    Args:
        roots: folders in which a path may lie; ``None``: anywhere, for cells that the caller made. Those of a
            :class:`~src.audio.roots.StoredCell` go before.

    Raises:
        AudioError: there are neither bytes nor path, or the path is not allowed.
    """
    roots = getattr(cell, "roots", roots)
    path = cell.get("path")
    name = str(path or fallback)
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"]), name
    if not path:
        reason = f"audio cell with keys {sorted(cell)}: expected 'array' and 'sampling_rate', 'bytes', or 'path'"
        raise AudioError(reason, "missing_audio")
    if roots is None:
        return Path(path), name
    return inside(str(path), roots), name


class Cuts:
    """Stretches of one file. Where the format can be entered anywhere exactly, the rest is not decoded."""

    def __init__(self, path: Path, limits: DecodeLimits = DEFAULT) -> None:
        """Raises :class:`AudioError` if the file cannot be read."""
        self.path, self._limits = path, limits
        self._whole: Samples | None = None
        with AudioStream(path, limits=limits) as stream:
            self.rate = stream.rate
            self._channels, self._frames = stream.channels, stream.stated
            seekable = stream.seekable
        if not seekable or self._frames is None:
            self._whole = decode(path, limits=limits).samples
        elif not self.read(max(0, int((1 - LOSS) * self._frames) - 1), self._frames).size:
            raise AudioError(f"{path}: its end is missing; it may have been cut or damaged")

    def read(self, start: int, stop: int) -> Samples:
        """Samples ``start`` to ``stop`` of the file's own rate, ``(channels, n)``; fewer where the file ends."""
        if self._whole is None:
            if stop <= start or (self._frames is not None and start >= self._frames):
                return np.zeros((self._channels, 0), np.float32)
            found = self._read_from(start, stop)
            if found is not None:
                return found
            self._whole = decode(self.path, limits=self._limits).samples
        return self._whole[:, start:stop]

    def _read_from(self, start: int, stop: int) -> Samples | None:
        """The stretch by entering the file before it; ``None`` where its timestamps do not say where one is."""
        with AudioStream(self.path, limits=self._limits) as stream:
            return stream.stretch(start, stop)


class _Buffer:
    """Samples as they come, in one block of memory that grows, counted against the process's budget."""

    def __init__(self, channels: int, stream: AudioStream, limits: DecodeLimits) -> None:
        expected = _FIRST_CAPACITY
        if stream.stated is not None:
            most = [stream.stated, limits.samples // stream.channels]
            if not stream.trusted:  # a header alone must not claim memory
                most.append(64 * stream.size)
            expected = max(1, min(most))
        self._name, self._limits = stream.name, limits
        self._held: Reservation | None = None
        if limits.memory is not None:
            self._held = limits.memory.reserve(
                4 * channels * expected, stream.name, limits.wait_seconds if limits.hold_memory else None
            )
        self._samples = np.empty((channels, expected), np.float32)
        self._used = 0

    def append(self, block: Samples) -> None:
        end = self._used + block.shape[1]
        if end > self._samples.shape[1]:
            self._grow(max(end, self._samples.shape[1] * 3 // 2))
        self._samples[:, self._used : end] = block
        self._used = end

    def _grow(self, capacity: int) -> None:
        if self._held is not None:
            extra = 4 * self._samples.shape[0] * (capacity - self._samples.shape[1])
            self._held.grow(extra, self._name, self._limits.wait_seconds if self._limits.hold_memory else None)
        larger = np.empty((self._samples.shape[0], capacity), np.float32)
        larger[:, : self._used] = self._samples[:, : self._used]
        self._samples = larger

    def finish(self, hold: bool) -> Samples:
        samples = self._samples
        if self._used < samples.shape[1]:
            samples = samples[:, : self._used]
            if self._used < 0.9 * self._samples.shape[1] or samples.shape[0] > 1:
                samples = np.ascontiguousarray(samples)
        if self._held is not None:
            if hold:
                self._held.shrink(samples.nbytes)
                self._held.until_dropped(samples)
            else:
                self._held.release()
        return samples

    def release(self) -> None:
        if self._held is not None:
            self._held.release()
