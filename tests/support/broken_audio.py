"""Audio cells that cannot be used, of every kind that data sets are known to hold."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from src.common.paths import REPO_ROOT
from tests.support.tiny_corpus import wav_bytes

Cell = dict[str, Any] | None
SOUND = REPO_ROOT / "assets/mini/sounds/flac/bd_klub_0.flac"


def _wav(data: bytes, form: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16) -> bytes:
    """A WAV file whose header may say anything."""
    block = max(1, channels * bits // 8)
    body = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, min(rate * block, 2**32 - 1), block, bits)
    body += struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WAVE") + body


def _floats(value: float, count: int = 4000) -> bytes:
    return _wav(struct.pack("<f", value) * count, form=3, bits=32)


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def _numpy(number: int) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.zeros(100, dtype=np.float32))
    return buffer.getvalue()


KINDS: dict[str, tuple[str, Callable[[int], Cell]]] = {
    "no cell": ("missing_audio", lambda n: None),
    "no bytes and no path": ("missing_audio", lambda n: {"bytes": None, "path": None}),
    "path to nothing": ("missing_audio", lambda n: {"bytes": None, "path": f"/nowhere/{n}.wav"}),
    "path to a folder": ("missing_audio", lambda n: {"bytes": None, "path": str(SOUND.parent)}),
    "no bytes in the file": ("empty_audio", lambda n: {"bytes": b"", "path": f"{n}.wav"}),
    "no samples": ("unreadable_audio", lambda n: {"bytes": _wav(b""), "path": f"{n}.wav"}),
    "text": ("unreadable_audio", lambda n: {"bytes": b"404: Not Found\n" * (n % 50 + 1), "path": f"{n}.wav"}),
    "html": ("unreadable_audio", lambda n: {"bytes": b"<!doctype html><html></html>", "path": f"{n}.mp3"}),
    "noise": ("unreadable_audio", lambda n: {"bytes": random.Random(n).randbytes(2000), "path": f"{n}.flac"}),
    "zeros": ("unreadable_audio", lambda n: {"bytes": bytes(3000 + n), "path": f"{n}.ogg"}),
    "picture": ("unreadable_audio", lambda n: {"bytes": _png(), "path": f"{n}.png"}),
    "archive": ("unreadable_audio", lambda n: {"bytes": b"PK\x03\x04" + bytes(200), "path": f"{n}.zip"}),
    "array file": ("unreadable_audio", lambda n: {"bytes": _numpy(n), "path": f"{n}.npy"}),
    "half a header": ("unreadable_audio", lambda n: {"bytes": wav_bytes(0.3, n)[: n % 20 + 1], "path": f"{n}.wav"}),
    "header alone": ("unreadable_audio", lambda n: {"bytes": SOUND.read_bytes()[: 4 + n % 30], "path": f"{n}.flac"}),
    "no rate": ("unreadable_audio", lambda n: {"bytes": _wav(bytes(8000), rate=0), "path": f"{n}.wav"}),
    "no channels": ("unreadable_audio", lambda n: {"bytes": _wav(bytes(8000), channels=0), "path": f"{n}.wav"}),
    "unknown codec": ("unreadable_audio", lambda n: {"bytes": _wav(bytes(8000), form=0x7ABC), "path": f"{n}.wav"}),
    "not a number": ("unreadable_audio", lambda n: {"bytes": _floats(float("nan")), "path": f"{n}.wav"}),
    "infinite": ("unreadable_audio", lambda n: {"bytes": _floats(float("inf")), "path": f"{n}.wav"}),
}
"""Kind -> the status that a row with it must get, and the cell number ``n`` of the kind."""
