"""Length of a file as its headers state it, and whether that can be trusted.

FFmpeg shortens the stated length of WAV, W64 and CAF to what the file holds, so a cut one looks whole: their data
chunks are read here. Lengths in MP3, AAC, Ogg, ASF and transport streams are estimates or hints.
"""

from __future__ import annotations

from typing import Any, BinaryIO

MOST_CHUNKS = 1000
STREAMED = 0x7FFF0000
"""Sizes from here on (and 0) are what writers put where they do not know the length yet."""
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
TRUSTED = frozenset({"flac", "aiff", "au", "w64", "caf", "mov", "matroska"})
"""Not WAV: its bytes are compared, and its ``fact`` chunk is often wrong."""
MP3_FRAMES = 8
"""Consecutive frames from which FFmpeg's probe is sure of MP3 too (libavformat/mp3dec.c)."""
_MP3_KBPS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
"""Bit rates of MPEG-1 Layer III and of MPEG-2 and 2.5, by their index (ISO 11172-3, 2.4.2.3; ISO 13818-3)."""
_MP3_RATES = (44100, 48000, 32000, 0)
LOSSY = 8192
"""Samples that codecs with a delay may drop at both ends."""


def missing_share(file: BinaryIO, size: int) -> tuple[float, str]:
    """Share of the sample data that a RIFF, RF64, W64 or CAF header promises and the file does not hold.

    Returns 0 for other formats and for streamed headers (size 0 or a placeholder), and words for a message.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and file.seek(8) and file.read(4) == b"WAVE":
        claimed, start = _riff_data(file, head[:4])
    elif head[:4] == b"riff" and len(head) == 16:
        claimed, start = _w64_data(file)
    elif head[:4] == b"caff":
        claimed, start = _caf_data(file)
    else:
        return 0.0, ""
    there = max(0, size - start)
    if claimed <= there:
        return 0.0, ""
    return 1 - there / claimed, f"its header claims {claimed} bytes of samples, and it holds {there}"


def begins_as_mp3(head: bytes) -> bool:
    """Whether ``head`` begins with :data:`MP3_FRAMES` whole MPEG audio Layer III frames, or with ID3v2 and these."""
    place, kind = _id3_bytes(head), None
    for _ in range(MP3_FRAMES):
        if len(head) < place + 4:
            return False
        word = int.from_bytes(head[place : place + 4], "big")
        version, rate = word >> 19 & 3, _MP3_RATES[word >> 10 & 3] >> (2, 0, 1, 0)[word >> 19 & 3]
        kbps = _MP3_KBPS[version != 3][word >> 12 & 15]
        # 11 bits of synchronisation; layer 3 is written as 1, and version 1 is reserved
        if word >> 21 != 0x7FF or word >> 17 & 3 != 1 or version == 1 or not rate or not kbps:
            return False
        if kind not in (None, (version, rate)):
            return False
        kind = version, rate
        place += (144 if version == 3 else 72) * kbps * 1000 // rate + (word >> 9 & 1)
    return True


def _id3_bytes(head: bytes) -> int:
    """Length of an ID3v2 tag at the beginning, with its footer; 0 without one (https://id3.org/id3v2.4.0-structure)."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _riff_data(file: BinaryIO, kind: bytes) -> tuple[int, int]:
    """Claimed bytes of samples (0: unknown) and where they begin."""
    order = "big" if kind == b"RIFX" else "little"
    place, large = 12, 0
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        name, length = chunk[:4], int.from_bytes(chunk[4:], order)  # type: ignore[arg-type]
        if name == b"ds64":  # the sizes of RF64, https://tech.ebu.ch/docs/tech/tech3306.pdf
            large = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            if kind in (b"RF64", b"BW64") and large:
                return 0 if large >= 2**63 - 1 else large, place + 8
            return 0 if length >= STREAMED else length, place + 8
        place += 8 + length + length % 2
    return 0, 0


def _w64_data(file: BinaryIO) -> tuple[int, int]:
    place = 40
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        chunk = file.read(24)
        if len(chunk) < 24:
            break
        length = int.from_bytes(chunk[16:], "little")  # with these 24 bytes
        if chunk[:16] == W64_DATA:
            return 0 if length <= 24 or length >= 2**63 - 1 else length - 24, place + 24
        place += max(24, length + (-length) % 8)
    return 0, 0


def _caf_data(file: BinaryIO) -> tuple[int, int]:
    place = 8
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        chunk = file.read(12)
        if len(chunk) < 12:
            break
        length = int.from_bytes(chunk[4:], "big", signed=True)  # -1: up to the end
        if chunk[:4] == b"data":
            return max(0, length - 4), place + 16
        if length < 0:
            break
        place += 12 + length
    return 0, 0


def stated_samples(container: Any, stream: Any, rate: int) -> tuple[int | None, bool, int]:
    """Samples that the header states (``None``: nothing), whether to trust it, and how many may be missing."""
    names = set(str(container.format.name).split(","))
    trusted = bool(names & TRUSTED)
    if stream.duration and stream.time_base:
        unit = stream.time_base
        count = stream.duration * unit.numerator * rate // unit.denominator
    elif container.duration and len(container.streams) == 1:
        # Matroska states when it ends, whenever it begins
        count = (container.duration - max(0, container.start_time or 0)) * rate // 1_000_000
    else:
        return None, False, 0
    if count <= 0:
        return None, False, 0
    codec = str(stream.codec_context.name)
    exact = codec.startswith(("pcm_", "flac"))
    return count, trusted, 1 if exact else LOSSY
