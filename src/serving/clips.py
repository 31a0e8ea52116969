"""Clips of a request: from base64 to a waveform of one channel, with every size bounded before memory is taken."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

import torch

from src.audio.budget import Allowance, MemoryBudget
from src.audio.decode import CLIENT_CODECS, CLIENT_FORMATS, DecodeLimits
from src.audio.decode import decode as decode_audio
from src.audio.errors import AudioError, NoMemory, NoSamples
from src.audio.waveform import Waveform
from src.serving.config import MIB, Limits
from src.serving.errors import ApiError
from src.serving.schema import AudioFormat, ClipPart, InputAudioPart

RATES = (4_000, 192_000)
"""Samples per second."""
MOST_CHANNELS = 32
WORK_SECONDS = 20.0
"""Longest time that one clip may take to decode."""


def read_clip(part: ClipPart, limits: Limits, where: str, allowance: Allowance | None = None) -> Waveform:
    """Decode a clip of a request to one channel at its own rate.

    ``allowance`` is shared by all clips of the request. Raises :class:`ApiError` (400) that names ``where`` the clip
    stands: broken base64, another format than it says, or audio that is empty, unreadable, too long or not finite;
    503 where clips of others leave no memory. Remote addresses must have been fetched before.
    """
    try:
        if isinstance(part, InputAudioPart):
            encoded = from_base64(part.input_audio.data)
            declared: AudioFormat | None = part.input_audio.format
        else:
            encoded, declared = from_data_url(part.audio_url.url), None
        return decode(encoded, limits, declared, allowance)
    except ApiError as error:
        raise ApiError(error.status, f"{where}: {error.message}", error.code, where) from None


def decode(
    encoded: bytes, limits: Limits, declared: AudioFormat | None = None, allowance: Allowance | None = None
) -> Waveform:
    """One channel of an encoded WAV, MP3, FLAC or Ogg file. Raises :class:`ApiError`."""
    try:
        found = decode_audio(encoded, "audio", decode_limits(limits, allowance), mono=True)
    except NoMemory as error:
        raise ApiError(503, str(error), "overloaded") from None
    except NoSamples:
        raise ApiError(400, "audio holds no samples (0 s)", "empty_audio") from None
    except AudioError as error:
        codes = {"too_long": "audio_too_long", "empty_audio": "empty_audio"}
        raise ApiError(400, str(error), codes.get(error.fault, "bad_audio")) from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises on a hostile file costs its request alone
        raise _unreadable(error) from None
    if declared not in (None, found.container):
        reason = f"format is {declared!r}, but the bytes are those of a {found.container} file"
        raise ApiError(400, reason, "bad_audio")
    return Waveform(torch.from_numpy(found.samples), found.rate)


def decode_limits(limits: Limits, allowance: Allowance | None = None) -> DecodeLimits:
    """Limits on the cost of one clip of a client."""
    return DecodeLimits(
        seconds=limits.clip_seconds,
        samples=limits.samples,
        file_bytes=limits.body_bytes,
        work_seconds=WORK_SECONDS,
        rates=RATES,
        channels=MOST_CHANNELS,
        formats=CLIENT_FORMATS,
        codecs=CLIENT_CODECS,
        memory=MEMORY,
        hold_memory=True,
        request=allowance,
    )


MEMORY = MemoryBudget(1024 * MIB)
"""Decoded clips of all requests, from when their decoding begins until they are dropped."""


def from_base64(text: str) -> bytes:
    """Decoded bytes. Raises :class:`ApiError` for anything but whole base64."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"broken base64 ({error}); it may have been cut", "bad_base64") from None
    if not found:
        raise ApiError(400, "holds no bytes", "empty_audio")
    return found


def from_data_url(url: str) -> bytes:
    """Content of ``data:audio/...;base64,...``; never reads anything. Raises :class:`ApiError`."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "data":
        raise ApiError(400, f"{url[:60]!r} is not a data: URL; this server reads no files or addresses", "bad_url")
    head, comma, payload = rest.partition(",")
    kind, *settings = head.lower().split(";")
    if not comma or "base64" not in settings:
        raise ApiError(400, "a data: URL must look like data:audio/wav;base64,...", "bad_url")
    if kind and not kind.startswith("audio/") and kind not in ("application/octet-stream", "application/ogg"):
        raise ApiError(400, f"a data: URL of type {kind[:60]!r}, expected audio/...", "bad_url")
    return from_base64(payload)


def remote_host(url: str) -> str | None:
    """Host of an http(s) address, ``None`` for any other URL. Raises :class:`ApiError` if it is malformed."""
    try:
        parts = urlsplit(url) if url[:8].lower().startswith(("http://", "https://")) else None
        return None if parts is None else (parts.hostname or "")
    except ValueError as error:
        raise ApiError(400, f"{url[:60]!r} is no address ({error})", "bad_url") from None


def _unreadable(error: Exception) -> ApiError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ApiError(400, f"cannot be read as audio ({reason}); check that the file is whole", "bad_audio")
