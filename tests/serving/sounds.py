"""Sound files of every format that the server takes, and hostile ones."""

from __future__ import annotations

import io
import struct
from base64 import b64encode
from functools import cache
from typing import Any

import numpy as np
import soundfile

RATE = 16000


@cache
def encoded(kind: str = "wav", seconds: float = 1.0, rate: int = RATE, channels: int = 1, pitch: int = 440) -> bytes:
    """A tone as a file."""
    times = np.arange(round(seconds * rate)) / rate
    tone = np.repeat(0.3 * np.sin(2 * np.pi * pitch * times)[:, None], channels, axis=1)
    subtype = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}[kind]
    file = io.BytesIO()
    soundfile.write(file, tone, rate, format=kind.upper(), subtype=subtype)
    return file.getvalue()


def silence_bomb(seconds: float = 7200.0) -> bytes:
    """Hours of silence in a few hundred kilobytes of FLAC."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format="FLAC", subtype="PCM_16") as out:
        for _ in range(int(seconds // 60)):
            out.write(np.zeros(60 * 8000, dtype=np.float32))
    return file.getvalue()


def float_wav(samples: Any, rate: int = RATE) -> bytes:
    """32-bit float samples as they are, NaN included."""
    data = np.asarray(samples, dtype="<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return head + struct.pack("<4sI", b"data", len(data)) + data


def wav_header(claimed: int, tag: int = 1, channels: int = 1, rate: int = RATE, data: bytes = b"\0\1" * 800) -> bytes:
    """A WAV file whose header says what is asked for, whatever follows."""
    fmt = struct.pack(
        "<HHIIHH", tag, channels, rate, min(rate * 2 * channels, 2**32 - 1), min(2 * channels, 65535), 16
    )
    head = struct.pack("<4sI4s4sI", b"RIFF", claimed & 0xFFFFFFFF, b"WAVE", b"fmt ", 16) + fmt
    return head + struct.pack("<4sI", b"data", claimed & 0xFFFFFFFF) + data


def large_wav_header(claimed: int) -> bytes:
    """An RF64 file, whose sizes have 64 bits."""
    plain = wav_header(2**32 - 1)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, claimed + 100, claimed, claimed // 2, 0)
    return b"RF64" + plain[4:12] + sizes + plain[12:]


def input_audio(data: bytes, kind: str = "wav") -> dict[str, Any]:
    """A content part."""
    return {"type": "input_audio", "input_audio": {"data": b64encode(data).decode(), "format": kind}}


def audio_url(data: bytes, media: str = "audio/wav") -> dict[str, Any]:
    """A content part with a ``data:`` URL."""
    return {"type": "audio_url", "audio_url": {"url": f"data:{media};base64,{b64encode(data).decode()}"}}


def chat(*parts: Any, model: str = "m", **fields: Any) -> dict[str, Any]:
    """A request of one user turn."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}
