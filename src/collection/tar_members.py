"""A strict reader of tar archives as streams, compressed or not.

The standard library ends quietly at the first header that it cannot read, and does not look at what follows the end
of an archive; here both are errors. ``tar`` itself only warns of some of them. Format: POSIX.1-2017, pax.
"""

from __future__ import annotations

import bz2
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from src.collection.members import Budget, Member, UnpackError, shown

BLOCK = 512
_CHUNK = 1 << 18
_MOST_OUT = 1 << 20
_MOST_HEADER = 1 << 20
"""Bytes of one pax header or long name; real ones have some hundred."""
_MOST_RECORD = 1 << 20
_MEMORY = 1 << 30
"""Memory of the xz decoder: its largest preset needs 65 MiB."""
_LINKS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_VOLUME_LABEL = b"V"


def tar_members(source: IO[bytes], budget: Budget) -> Iterator[Member]:
    """Members in their order; the data of one must be read before the next is asked for.

    When the iterator ends, the whole of ``source`` was read: checksums of the compression, every header's checksum,
    the end-of-archive block, and nothing but padding behind it. Raises :class:`UnpackError` otherwise, and whatever
    the decoders raise on damaged data.
    """
    stream = _Stream(_decompressed(source), budget)
    extended: dict[str, str] = {}
    defaults: dict[str, str] = {}
    while True:
        block = stream.take(BLOCK, "a header")
        if block.count(0) == BLOCK:  # the end of the archive
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnpackError(f"{error} in the header at byte {stream.place - BLOCK}") from error
        if info.size < 0:
            raise UnpackError(f"the header at byte {stream.place - BLOCK} has a negative size")
        if block[257:265] == b"ustar  \0":  # GNU's own format: the place of ustar's prefix has times in it
            info.name = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _pax(stream.header(info.size))
        elif info.type == tarfile.XGLTYPE:
            defaults |= _pax(stream.header(info.size))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = stream.header(info.size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            stream.header(info.size)
        elif info.type != _VOLUME_LABEL:
            yield _member(info, defaults | extended, stream)
            extended = {}
    if extended:
        raise UnpackError("it ends behind the extended header of a member that is not there")
    _check_end(stream)


def _member(info: tarfile.TarInfo, extended: dict[str, str], stream: _Stream) -> Member:
    name = extended.get("path", info.name)
    if any(key.startswith("GNU.sparse.") for key in extended):
        return Member(name, "a sparse file", 0)
    if info.type in _LINKS:
        return Member(name, _LINKS[info.type], 0)
    if info.type == tarfile.DIRTYPE:  # its permissions are not kept, so that setgid folders of clusters may pass
        return Member(name, "folder", 0)
    if info.type not in _FILES:
        return Member(name, f"a member of the unknown type {info.type!r}", 0)
    if info.mode & 0o6000:
        return Member(name, "a setuid or setgid file", 0)
    size = _size(extended["size"]) if "size" in extended else info.size
    return Member(name, "file", size, lambda: stream.content(size, name))


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UnpackError(f"an extended header gives the size {shown(text)}")
    return int(text)


def _pax(data: bytes) -> dict[str, str]:
    """Records ``LENGTH KEY=VALUE\\n``; every byte has to belong to one."""
    found: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or not key or length > len(data) or data[length - 1 : length] != b"\n":
            raise UnpackError("an extended header cannot be read")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _check_end(stream: _Stream) -> None:
    """Read on to the end: zero blocks up to the end of a record, and nothing else."""
    tail, end = BLOCK, stream.place - BLOCK
    for chunk in stream.rest():
        if chunk.count(0) != len(chunk):
            raise UnpackError(f"zeros stand in place of a header at byte {end}, and data follow them")
        tail += len(chunk)
        if tail > _MOST_RECORD + 2 * BLOCK:
            break
    # A download that was laid out in full and never filled ends in zeros as well, and parts of a split tar may end
    # between members. Writers end with two blocks, or fill a record: 20 blocks unless told another number.
    total = end + tail
    records = [base << power for base in (BLOCK, 20 * BLOCK) for power in range(12) if base << power <= _MOST_RECORD]
    if tail > 2 * BLOCK and not any(total % size == 0 and tail <= size + 2 * BLOCK for size in records):
        raise UnpackError(f"from byte {end} on it has only zeros, and they do not fill a record: data are missing")


class _Stream:
    """Exact reads from chunks, counted; ``place`` is the number of bytes handed out."""

    def __init__(self, chunks: Iterator[bytes], budget: Budget) -> None:
        self._chunks = chunks
        self._budget = budget
        self._chunk = memoryview(b"")
        self.place = 0

    def _some(self, most: int) -> memoryview:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return memoryview(b"")
            self._budget.spend(len(chunk))
            self._chunk = memoryview(chunk)
        part, self._chunk = self._chunk[:most], self._chunk[most:]
        self.place += len(part)
        return part

    def pieces(self, count: int, what: str) -> Iterator[memoryview]:
        """``count`` bytes in pieces; raises :class:`UnpackError` if there are fewer."""
        while count:
            part = self._some(count)
            if not part:
                raise UnpackError(f"it ends at byte {self.place}, where {what} should be: it is not whole")
            count -= len(part)
            yield part

    def take(self, count: int, what: str) -> bytes:
        """``count`` bytes at once."""
        return b"".join(self.pieces(count, what))

    def content(self, size: int, name: str) -> Iterator[memoryview]:
        """The data of a member, and the padding behind it."""
        yield from self.pieces(size, f"the rest of {shown(name)}")
        self.take(-size % BLOCK, f"the end of {shown(name)}")

    def header(self, size: int) -> bytes:
        """The data of an extended header."""
        if size > _MOST_HEADER:
            raise UnpackError(f"an extended header of {size} bytes at byte {self.place}")
        return b"".join(self.content(size, "an extended header"))

    def rest(self) -> Iterator[bytes]:
        """All that is left."""
        while part := self._some(_MOST_OUT):
            yield bytes(part)


class _Gzip:
    """:class:`zlib.decompressobj` with the interface of the other two decoders; it checks CRC and length itself."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)


def _decompressed(source: IO[bytes]) -> Iterator[bytes]:
    """Chunks of the tar itself; which compression it has is seen from its first bytes, not from its name."""
    start = source.read(_CHUNK)
    make: Callable[[], Any] | None = None
    if start[257:262] == b"ustar":
        pass  # the name of the first member may begin like a compressed file
    elif start.startswith(b"\x1f\x8b"):
        make = _Gzip
    elif start.startswith(b"BZh"):
        make = bz2.BZ2Decompressor
    elif start.startswith(b"\xfd7zXZ\0"):
        make = _xz
    if make is None:
        while start:
            yield start
            start = source.read(_MOST_OUT)
        return
    while start:  # one compressed stream after another, as pbzip2 and bgzip write them
        decoder = make()
        while not decoder.eof:
            if start or not decoder.needs_input:
                chunk = start
            elif not (chunk := source.read(_CHUNK)):
                raise UnpackError("its compressed data end in the middle: it is not whole")
            start = b""
            yield decoder.decompress(chunk, _MOST_OUT)
        start = decoder.unused_data.lstrip(b"\0")
        while not start and (chunk := source.read(_CHUNK)):
            start = chunk.lstrip(b"\0")


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
