"""The one decoder: a file, bytes, or a data-set cell becomes float32 samples. Needs NumPy and PyAV, not PyTorch.

What is opened, and what is an error, is said in :mod:`src.audio.stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.budget import Reservation
from src.audio.errors import AudioError
from src.audio.mixing import ChannelLevels, check_extremes, check_range
from src.audio.roots import inside
from src.audio.stream import DEFAULT, LOSS, AudioStream, DecodeLimits, Samples

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
    levels = ChannelLevels()
    samples, stream = _decode_channels(source, name, limits, levels.mean if mono else None)
    if mono and stream.channels > 1 and levels.cancelled(samples[0]):
        loudest = slice(levels.loudest, levels.loudest + 1)
        # decoded again: only the whole file says which channel is loudest, and to keep all of them takes more memory
        samples, _ = _decode_channels(source, stream.name, limits, lambda block: block[loudest])
    return Decoded(samples, stream.rate, stream.container)


def _decode_channels(
    source: Path | bytes, name: str, limits: DecodeLimits, to_one: Callable[[Samples], Samples] | None
) -> tuple[Samples, AudioStream]:
    """All samples, of one channel where ``to_one`` brings a block to one; and the stream, closed."""
    with AudioStream(source, name, limits) as stream:
        buffer = _Buffer(1 if to_one else stream.channels, stream, limits)
        try:
            for block in stream:
                buffer.append(block if to_one is None else to_one(block))
            samples = buffer.finish()
            check_extremes(buffer.extremes, stream.name)
            return samples, stream
        except BaseException:
            buffer.release()
            raise


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
    encoded = cell.get("bytes")
    if encoded is not None:
        try:
            return encoded if isinstance(encoded, bytes) else bytes(memoryview(encoded)), name
        except TypeError as error:
            raise AudioError(f"{name}: its 'bytes' are of type {type(encoded).__name__}, expected bytes") from error
    if not path:
        reason = f"audio cell with keys {sorted(cell)}: expected 'array' and 'sampling_rate', 'bytes', or 'path'"
        raise AudioError(reason, "missing_audio")
    if roots is None:
        return Path(name), name
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
        end: Samples | None = None
        if seekable and self._frames is not None:
            last = max(0, int((1 - LOSS) * self._frames) - 1)
            end = self._read_from(last, self._frames + 1)
        # nothing at its end, or more than its header states: decoding all of it says whether something is missing
        if end is None or not end.size or last + end.shape[1] > (self._frames or 0):
            self._whole = decode(path, limits=limits).samples

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
            found = stream.stretch(start, stop)
        if found is not None:
            check_range(found, str(self.path))
        return found


class _Buffer:
    """Samples as they come, in one array that grows, counted against the memory that all clips share."""

    def __init__(self, channels: int, stream: AudioStream, limits: DecodeLimits) -> None:
        self._capacity = _FIRST_CAPACITY
        if stream.stated is not None:
            most = [stream.stated, limits.samples // stream.channels]
            if not stream.trusted:  # a header alone must not claim memory
                most.append(64 * stream.size)
            self._capacity = max(1, min(most))
        self._channels, self._name, self._limits = channels, stream.name, limits
        self._wait = limits.wait_seconds if limits.hold_memory else None
        self._held: Reservation | None = None
        if limits.memory is not None:
            self._held = limits.memory.reserve(4 * channels * self._capacity, stream.name, self._wait)
        self._samples = np.empty((channels, 0), np.float32)
        self._used = 0
        self.extremes: list[float] = []
        """Least and greatest sample of each block: looked at while the block is in the processor's cache."""

    def append(self, block: Samples) -> None:
        """Add ``block (channels, n)``. The only block of a short clip is kept as it is, without a copy."""
        self.extremes += (float(block.min()), float(block.max()))
        start, self._used = self._used, self._used + block.shape[1]
        if start == 0 and not self._limits.hold_memory:
            self._samples = block
            return
        if self._used > self._samples.shape[1]:
            if self._used > self._capacity:
                larger = max(self._used, self._capacity * 3 // 2)  # in steps of a share, so that few copies are made
                if self._held is not None:
                    self._held.grow(4 * self._channels * (larger - self._capacity), self._name, self._wait)
                self._capacity = larger
            before, self._samples = self._samples, np.empty((self._channels, self._capacity), np.float32)
            self._samples[:, :start] = before[:, :start]
        self._samples[:, start : self._used] = block

    def finish(self) -> Samples:
        """Everything as one contiguous array; its memory is given back, or counted until the array is dropped."""
        samples = np.ascontiguousarray(self._samples[:, : self._used])
        # a view of the buffer would keep all of it in memory
        if self._used < 0.9 * self._samples.shape[1] and samples.base is not None:
            samples = samples.copy()
        if self._held is not None and self._limits.hold_memory:
            self._held.shrink(samples.nbytes)
            self._held.until_dropped(samples)
        else:
            self.release()
        return samples

    def release(self) -> None:
        """Give back the memory that is counted."""
        if self._held is not None:
            self._held.release()
