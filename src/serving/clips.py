"""Clips of a request: from base64 to a waveform, with every size bounded before memory is taken.

Only WAV, MP3, FLAC and Ogg reach the decoder. FFmpeg, which decodes, tells formats by looking at the bytes, and some
of those it knows are lists of other files and addresses; :func:`plain_audio` lets no file through that it could take
for one (its probes of text formats look at what stands before the first zero byte).
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

from src.audio.waveform import AudioError, Waveform, load_waveform
from src.common.errors import UserError
from src.serving.config import Limits
from src.serving.errors import ApiError
from src.serving.schema import AudioFormat, ClipPart, InputAudioPart

RATES = (4_000, 192_000)
"""Samples per second."""
MOST_CHANNELS = 32
WAVE_CODECS = {1: "PCM", 2: "ADPCM", 3: "float", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 0xFFFE: "extensible"}
MOST_CHUNKS = 1000
STREAMED, CUT = 0x7FFF0000, 4096
"""Sizes that writers put where they do not know the length yet, and bytes that may be missing at the end."""
CODECS = ("pcm_", "adpcm_ms", "adpcm_ima_wav", "mp3", "flac", "vorbis", "opus")
LISTS = (b"<mpd", b"<?xml", b"<compositionplaylist", b"#ext", b"ffconcat", b"c=in ip", b"v=0", b"[playlist]")
"""How lists of files begin, in lower case."""


def read_clip(part: ClipPart, limits: Limits, where: str) -> Waveform:
    """Decode a clip of a request to one channel at its own rate.

    Raises :class:`ApiError` (400) that names ``where`` the clip stands: broken base64, another format than it says,
    or audio that is empty, unreadable, too long or not finite. Remote addresses must have been fetched before.
    """
    try:
        if isinstance(part, InputAudioPart):
            encoded = from_base64(part.input_audio.data)
            declared: AudioFormat | None = part.input_audio.format
        else:
            encoded, declared = from_data_url(part.audio_url.url), None
        return decode(encoded, limits, declared)
    except ApiError as error:
        raise ApiError(error.status, f"{where}: {error.message}", error.code, where) from None


def decode(encoded: bytes, limits: Limits, declared: AudioFormat | None = None) -> Waveform:
    """One channel of an encoded file. Raises :class:`ApiError` (400)."""
    from torchcodec.decoders import AudioDecoder

    safe = plain_audio(encoded, declared)
    try:
        decoder = AudioDecoder(safe)
        about = decoder.metadata
        rate, channels = int(about.sample_rate or 0), int(about.num_channels or 0)
        seconds = float(about.duration_seconds or 0.0)
        codec = str(about.codec or "")
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _unreadable(error) from None
    if not codec.startswith(CODECS):
        raise ApiError(400, f"audio codec {codec!r} is not taken; send PCM, MP3, FLAC, Vorbis or Opus", "bad_audio")
    if not RATES[0] <= rate <= RATES[1]:
        raise ApiError(400, f"{rate} samples per second, expected {RATES[0]} to {RATES[1]}", "bad_audio")
    if not 1 <= channels <= MOST_CHANNELS:
        raise ApiError(400, f"{channels} channels, expected 1 to {MOST_CHANNELS}", "bad_audio")
    if seconds > limits.clip_seconds:
        reason = f"{seconds:.0f} s of audio, this server takes up to {limits.clip_seconds:g} s"
        raise ApiError(400, reason, "audio_too_long")
    # what the header does not tell is bounded too: no more than this is decoded
    most = min(limits.clip_seconds, limits.samples / (rate * channels))
    try:
        waveform = load_waveform(decoder, max_seconds=most)
    except AudioError as error:
        if error.fault == "too_long":
            reason = f"more than {most:g} s of audio with {channels} channels, more than this server takes"
            raise ApiError(400, reason, "audio_too_long") from None
        if error.fault == "empty_audio" or "No audio frames" in str(error):
            raise ApiError(400, "audio holds no samples (0 s)", "empty_audio") from None
        raise ApiError(400, str(error).replace("audio decoder: ", "audio "), "bad_audio") from None
    except UserError as error:
        raise ApiError(400, str(error), "bad_audio") from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises on a hostile file costs its request alone
        raise _unreadable(error) from None
    return Waveform(waveform.mono[None].contiguous(), waveform.sample_rate)


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


def plain_audio(encoded: bytes, declared: AudioFormat | None = None) -> bytes:
    """The file as it may be decoded: of one of the four formats, by its content, and nothing but that.

    An ID3 tag is cut off, and the length in a RIFF header, which decoders do not need, is set to zero. Raises
    :class:`ApiError`.
    """
    body = _without_id3(encoded)
    found: AudioFormat
    if body[:4] in (b"RIFF", b"RF64") and body[8:12] == b"WAVE":
        found, body = "wav", body[:4] + bytes(4) + body[8:]
        _check_wave(body)
    elif body[:4] == b"fLaC" and body[4:8] in (b"\0\0\0\x22", b"\x80\0\0\x22"):
        found = "flac"
    elif body[:5] == b"OggS\0":
        found = "ogg"
    elif len(body) > 4 and body[0] == 0xFF and body[1] & 0xE6 == 0xE2:  # MPEG sync, layer III
        found = "mp3"
        before_zero = body[: 2**21].partition(b"\0")[0].lower()
        if any(mark in before_zero for mark in LISTS):
            raise ApiError(400, "an MP3 file with a list of files in it", "bad_audio")
    else:
        raise ApiError(400, f"no WAV, MP3, FLAC or Ogg file: it begins with {encoded[:8]!r}", "bad_audio")
    if declared not in (None, found):
        raise ApiError(400, f"format is {declared!r}, but the bytes are those of a {found} file", "bad_audio")
    return body


def _without_id3(data: bytes) -> bytes:
    """The file behind its ID3v2 tags (https://id3.org/id3v2.4.0-structure)."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        high, upper, lower, low = (byte & 0x7F for byte in data[start + 6 : start + 10])
        footer = 10 if data[start + 5] & 0x10 else 0
        start += 10 + (high << 21 | upper << 14 | lower << 7 | low) + footer
    return data[start:]


def _check_wave(data: bytes) -> None:
    """Refuse codecs that have no business in a WAV file, and files that claim much more than they hold."""
    place, large, known = 12, 0, False
    for _ in range(MOST_CHUNKS):
        name, start = data[place : place + 4], place + 8
        size = int.from_bytes(data[place + 4 : start], "little")
        if name == b"ds64":  # the sizes of RF64, https://tech.ebu.ch/docs/tech/tech3306.pdf
            large = int.from_bytes(data[start + 8 : start + 16], "little")
        elif name == b"fmt ":
            tag, known = int.from_bytes(data[start : start + 2], "little"), True
            if tag not in WAVE_CODECS:
                raise ApiError(400, f"a WAV file with codec {tag:#x}, expected PCM or float", "bad_audio")
        elif name == b"data":
            claimed, there = large or (0 if size >= STREAMED else size), len(data) - start
            if claimed > there + CUT:
                reason = f"a WAV file that claims {claimed} bytes of samples and holds {there}; it may have been cut"
                raise ApiError(400, reason, "bad_audio")
            break
        place = start + size + size % 2
        if place + 8 > len(data):
            break
    if not known:
        raise ApiError(400, "a WAV file without a format chunk; it may have been cut", "bad_audio")


def _unreadable(error: Exception) -> ApiError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return ApiError(400, f"cannot be read as audio ({reason}); check that the file is whole", "bad_audio")
