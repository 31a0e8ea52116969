"""Headers as far as FFmpeg does not read them as it should: lengths that they state, and places that it misreads.

FFmpeg shortens the stated length of WAV, W64 and CAF to what the file holds, so a cut one looks whole: their data
chunks are read here, as are those of AIFF, 8SVX and MP4. Lengths in MP3, AAC, Ogg, ASF and transport streams are
estimates or hints; that of Ogg is a fact where pages are missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

MOST_CHUNKS = 1000
FARTHEST = 1 << 43
"""Bytes beyond any file: lengths in headers lead farther, and systems refuse to go there."""
STREAMED = 0x7FFF0000
"""Sizes of 32 bits from here on (and 0) are what writers put where they do not know the length yet."""
STREAMED_64 = 2**63 - 64
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_CHUNKS: dict[bytes, tuple[int, int, int, Literal["little", "big"], int]] = {
    **dict.fromkeys((b"RIFF", b"RF64", b"BW64"), (12, 4, 4, "little", 2)),
    **dict.fromkeys((b"RIFX", b"FORM"), (12, 4, 4, "big", 2)),
    b"riff": (40, 16, 8, "little", 8),
    b"caff": (8, 4, 8, "big", 1),
}
"""First bytes of WAV, AIFF and 8SVX, W64, and CAF -> place of the first chunk; bytes of a chunk's name and of its
length; byte order; the multiple to which its content is padded."""
_SAMPLE_CHUNKS = (b"data", b"SSND", b"BODY", W64_DATA)
TRUSTED = frozenset({"flac", "aiff", "au", "mov", "matroska", "nistsphere", "tta", "wv"})
"""Not WAV, W64 and CAF: their bytes are compared; ``fact`` chunks are often wrong, and FFmpeg counts what follows the
samples of a CAF file as samples."""
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


class FileView:
    """Bytes ``start`` to ``stop`` of ``file`` as a file that can be read, with other bytes at one place.

    Args:
        place: where ``bytes_there`` are read in place of those of the file; counted from ``start``.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int, place: int = 0, bytes_there: bytes = b"") -> None:
        self._file, self._start, self._size = file, start, stop - start
        self._place, self._there = place, bytes_there
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; all that are left for a negative one."""
        at = self.tell()
        left = max(0, self._size - at)
        data = self._file.read(left if size < 0 else min(size, left))
        begin, end = max(0, self._place - at), min(len(data), self._place + len(self._there) - at)
        if begin < end:
            skipped = at + begin - self._place
            data = data[:begin] + self._there[skipped : skipped + end - begin] + data[end:]
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        base = (0, self.tell(), self._size)[whence]
        return self._file.seek(self._start + base + offset) - self._start

    def tell(self) -> int:
        """Place of the next byte."""
        return self._file.tell() - self._start


def _chunks(file: BinaryIO, kind: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, length and place of the content of every chunk of a file that begins with ``kind`` of :data:`_CHUNKS`.

    The file is at the content when a chunk is yielded.
    """
    place, name_bytes, length_bytes, order, unit = _CHUNKS[kind]
    for _ in range(MOST_CHUNKS):
        file.seek(min(place, FARTHEST))
        head = file.read(name_bytes + length_bytes)
        if len(head) < name_bytes + length_bytes:
            return
        length = int.from_bytes(head[name_bytes:], order, signed=length_bytes == 8)
        if kind == b"riff":
            length -= len(head)  # W64 counts the name and the length as well
        place += len(head)
        yield head[:name_bytes], length, place
        if length < 0:  # in CAF -1, the last chunk: up to the end
            return
        place += length + -length % unit


def missing_share(file: BinaryIO, size: int) -> tuple[float, str]:
    """Share of the sample data that a header promises and the file does not hold: RIFF, W64, CAF, AIFF, 8SVX and MP4.

    Returns 0 for other formats and for streamed headers (size 0 or a placeholder), and words for a message.
    """
    file.seek(0)
    head = file.read(16)
    kind = head[:4]
    claimed = start = large = 0
    if head[4:8] in (b"ftyp", b"moov"):
        claimed, start = _box_data(file)
    elif kind in _CHUNKS and (head[8:12] == b"WAVE" or kind in (b"FORM", b"riff", b"caff")):
        for name, length, start in _chunks(file, kind):  # noqa: B007  # start is read behind the loop
            if name == b"ds64":
                # the real size, in RF64, where the field of 32 bits is -1: https://tech.ebu.ch/docs/tech/tech3306.pdf
                large = int.from_bytes(file.read(16)[8:], "little")
            elif name in _SAMPLE_CHUNKS:
                if kind in (b"RF64", b"BW64") and large and length == 0xFFFFFFFF:
                    length = large
                elif kind not in (b"riff", b"caff") and length >= STREAMED:
                    length = 0
                claimed = length if length < STREAMED_64 else 0
                break
    if kind == b"caff":  # the number of edits is in front of the samples
        claimed, start = claimed - 4, start + 4
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


def corrected(file: BinaryIO, size: int) -> BinaryIO | FileView:
    """The file as FFmpeg decodes it rightly: without a tag at its end, and with the width of its samples."""
    stop, bits = _end_without_tag(file, size), _container_bits(file)
    return file if stop == size and bits is None else FileView(file, 0, stop, *(bits or ()))


def _end_without_tag(file: BinaryIO, size: int) -> int:
    """Where an APE tag at the end of an MPEG audio file begins; ``size`` without one.

    FFmpeg reads such a tag only in formats of its own, and takes what looks like frames in it (covers) for sound. An
    ID3v1 tag may follow it. https://wiki.hydrogenaud.io/index.php?title=APEv2_specification
    """
    file.seek(0)
    head = file.read(3)
    if head != b"ID3" and (len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0):
        return size
    start = max(0, size - 160)
    file.seek(start)
    tail = file.read(160)
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    footer = tail[-32:]
    if footer[:8] != b"APETAGEX" or len(footer) < 32:
        return size
    begin = start + len(tail) - int.from_bytes(footer[12:16], "little") - 32
    if footer[23] < 128 or begin <= 0:  # without a header, nothing says that the length is right
        return size
    file.seek(begin)
    return begin if file.read(8) == footer[:8] else size


def _container_bits(file: BinaryIO) -> tuple[int, bytes] | None:
    """Place of the valid bits of a WAV file's samples, and what to read there; ``None`` if that is what is there.

    Samples of fewer valid bits than their containers stand in the containers' upper bits. FFmpeg 9 takes the valid
    bits for the width of the containers (24 of 32 bits: for floats), and decodes noise.
    https://learn.microsoft.com/windows/win32/api/mmreg/ns-mmreg-waveformatextensible
    """
    file.seek(0)
    head = file.read(108)
    place, fields = 0, b""
    if head[:4] == b"riff" and head[40:44] == b"fmt ":
        place, fields = 64, head[64:]
    elif head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        for name, length, start in _chunks(file, head[:4]):
            if name == b"fmt ":
                place, fields = start, file.read(min(length, 40))
            if name in (b"fmt ", b"data"):
                break
    if len(fields) < 40 or fields[:2] != b"\xfe\xff" or fields[24:28] != b"\1\0\0\0":
        return None  # not of PCM samples with valid bits
    channels, block = int.from_bytes(fields[2:4], "little"), int.from_bytes(fields[12:14], "little")
    bits, valid = int.from_bytes(fields[14:16], "little"), int.from_bytes(fields[18:20], "little")
    if bits not in (16, 24, 32) or block * 8 != bits * channels or not 0 < valid <= bits - 8:
        return None
    return place + 18, fields[14:16]


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_pages(file: BinaryIO, place: int) -> Iterator[tuple[int, bytes]]:
    """Places and bytes of the whole pages from ``place`` on (RFC 3533), until :data:`MOST_CHUNKS` are not whole."""
    damaged = 0
    while damaged < MOST_CHUNKS:
        file.seek(place)
        head = file.read(282)
        if head[:4] == b"OggS" and len(head) > 27:
            length = 27 + head[26] + sum(head[27 : 27 + head[26]])
            file.seek(place)
            page = file.read(length)
            # its CRC is that of zlib with all bits in reverse, and begins with 0
            bits = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
            crc = zlib.crc32(bits, 0xFFFFFFFF) ^ 0xFFFFFFFF
            if crc.to_bytes(4, "big").translate(_REVERSED) == page[22:26]:
                yield place, page
                place += length
                continue
        damaged += 1
        file.seek(place + 1)
        rest = file.read(1 << 16)
        found = rest.find(b"OggS")
        if found < 0 and len(rest) < 1 << 16:
            return
        place += 1 + (found if found >= 0 else len(rest) - 3)


def next_ogg_stream(file: BinaryIO, place: int) -> int | None:
    """Where the next stream of a chained Ogg file begins behind the page at ``place``; ``None`` if none does."""
    return next((at for at, page in _ogg_pages(file, place) if at > place and page[5] & 2), None)


def has_ogg_holes(file: BinaryIO) -> bool:
    """Whether pages of an Ogg file are missing or damaged, by their numbers (before the last whole one)."""
    numbers: dict[bytes, int] = {}
    for _, page in _ogg_pages(file, 0):
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        if not page[5] & 2 and number != numbers.get(serial, number - 1) + 1:
            return True
        numbers[serial] = number
    return False


def _box_data(file: BinaryIO) -> tuple[int, int]:
    """Bytes of all ``mdat`` boxes, and the bytes of other boxes between and before them."""
    place, claimed, end = 0, 0, 0
    for _ in range(MOST_CHUNKS):
        file.seek(min(place, FARTHEST))
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:  # a size of 64 bits follows
            length = int.from_bytes(box[8:16], "big")
        if len(box) < 8 or length < 8:  # 0: up to the end
            break
        place += length
        if box[4:8] == b"mdat":
            claimed, end = claimed + length, place
    return claimed, end - claimed


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
    if "aiff" in names and not exact:  # counts samples or packets, as the writer pleases
        trusted = False
    return count, trusted, 1 if exact else LOSSY
