"""A clip as a picture: short-time spectrum on a log-frequency axis, as a PNG."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.audio.decode import cell_source, decode
from src.common.errors import UserError

HEIGHT, WINDOW, HOP_SECONDS = 112, 1024, 0.008
LOWEST_HZ, RANGE_DB = 60.0, 70.0
COLORS = ((5, 5, 20), (58, 15, 92), (137, 34, 106), (203, 62, 76), (245, 128, 52), (252, 205, 96), (252, 253, 220))


@dataclass(frozen=True)
class Sound:
    """Encoded bytes of a clip, their media type, and the samples ``(n,)`` in mono at ``rate``."""

    data: bytes
    media_type: str
    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return len(self.samples) / self.rate

    def data_uri(self) -> str:
        """The encoded clip for an audio element."""
        return data_uri(self.media_type, self.data)


def data_uri(media_type: str, data: bytes) -> str:
    """Bytes as an address that a page can use without another file (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def read_encoded(audio: Any) -> tuple[bytes, str]:
    """A row's audio (``{"bytes", "path"}``) as it is stored, and its media type. Raises :class:`UserError`."""
    try:
        source, _ = cell_source(audio)
        data = source if isinstance(source, bytes) else source.read_bytes()
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise UserError(str(error)) from error
    kinds = {b"fLaC": "audio/flac", b"RIFF": "audio/wav", b"OggS": "audio/ogg"}
    return data, kinds.get(data[:4], "audio/mpeg")  # MP3 has no magic number: it may begin with a frame or with tags


def read_sound(audio: dict[str, Any], where: str) -> Sound:
    """Decode a row's audio. Raises :class:`UserError` naming the row if that fails."""
    try:
        data, media_type = read_encoded(audio)
        found = decode(data, where, mono=True)
    except (OSError, UserError) as error:
        raise UserError(f"{where}: the clip cannot be read: {error}") from error
    return Sound(data, media_type, found.samples[0], found.rate)


def spectrogram_uri(sound: Sound, most_columns: int | None = None) -> str:
    """Spectrogram as a PNG data URI, ``HEIGHT`` high, low notes below.

    A column for each ``HOP_SECONDS``, or for a longer time where there would be more than ``most_columns``.
    """
    hop_seconds = HOP_SECONDS if most_columns is None else max(HOP_SECONDS, sound.seconds / most_columns)
    levels = log_spectrum(sound.samples, sound.rate, hop_seconds)
    indexed = Image.fromarray((levels * 255).astype(np.uint8), mode="L").convert("P")
    indexed.putpalette(_palette())
    buffer = io.BytesIO()
    indexed.save(buffer, format="PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())


def log_spectrum(samples: NDArray[np.float32], rate: int, hop_seconds: float = HOP_SECONDS) -> NDArray[np.float64]:
    """Levels in [0, 1] of shape ``(HEIGHT, columns)``: 1 is the loudest point, 0 is ``RANGE_DB`` below it or less."""
    hop = max(1, round(rate * hop_seconds))
    # half a window of zeros: the first column is centred on the first sample
    padded = np.pad(samples.astype(np.float64), (WINDOW // 2, WINDOW // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    wanted = np.geomspace(rate / 2, LOWEST_HZ, HEIGHT)  # a picture's first row is its top
    bins = np.fft.rfftfreq(WINDOW, 1 / rate)
    rows = np.stack([np.interp(wanted, bins, column) for column in power.T], axis=1)
    decibels = 10 * np.log10(rows + 1e-12)  # digital silence has no logarithm
    return np.clip((decibels - decibels.max()) / RANGE_DB + 1, 0, 1)


def _palette() -> list[int]:
    stops = np.linspace(0, 255, len(COLORS))
    channels = [np.interp(np.arange(256), stops, [color[i] for color in COLORS]) for i in range(3)]
    return np.stack(channels, axis=1).round().astype(int).ravel().tolist()
