"""Strict readers of tar and ZIP archives, in one or several files: every member, compared with every stated checksum.

The standard library ends quietly at the first tar header that it cannot read, and ignores data that follow the end of
an archive; both are errors here. Formats: POSIX.1-2017 pax
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html) and PKWARE APPNOTE.TXT 6.3.10
(https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).
"""

from __future__ import annotations

import bz2
import functools
import io
import lzma
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

AGAIN = "remove it and run this again"
BY_HAND = "unpack it by hand and give the folder with --from-dir"
ELSEWHERE = "get it from its publisher again, or unpack it by hand and give the folder with --from-dir"
MOST_RATIO = 200
"""Content by size of the archive: audio compresses to a half, text to a tenth; deflate reaches 1032 with zeros."""
_ALWAYS = 1 << 20
_CHUNK, _MOST_OUT = 1 << 18, 1 << 20

_BLOCK = 512
_MOST_HEADER = 1 << 20
"""Bytes of one pax header or long name; real ones have some hundred."""
_MOST_RECORD = 1 << 20
_XZ_MEMORY = 1 << 30
"""The largest preset of xz needs 65 MiB to decompress."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_VOLUME_LABEL = b"V"
_OTHER_COMPRESSION = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress",
                      b"LZIP": "lzip", b"\x5d\0\0": "lzma", b"\x89LZO": "lzop"}  # fmt: skip

_ZIP_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
              stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED, _PATCHED, _STRONGLY_ENCRYPTED, _UTF8 = 0x1, 0x20, 0x40, 0x800
_END, _LOCAL, _ENTRY = 22, 30, 512
"""Bytes of the end record, of a local header, and those that every member costs besides its data."""


class UnpackError(Exception):
    """An archive is damaged, refused or not supported; ``fix`` says what the user can do."""

    def __init__(self, reason: str, fix: str = AGAIN) -> None:
        super().__init__(reason)
        self.fix = fix


@dataclass(frozen=True)
class Member:
    """One entry; ``kind`` is ``file``, ``folder`` or another thing in words; ``read`` yields a file's data once."""

    name: str
    kind: str
    size: int
    read: Callable[[], Iterable[bytes | memoryview]] = field(default=tuple)


class Budget:
    """Bytes that an archive of ``size`` bytes may unpack to; raises :class:`UnpackError` beyond."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = max(_ALWAYS, size * MOST_RATIO)

    def spend(self, count: int) -> None:
        """Count bytes of content."""
        self._left -= count
        if self._left < 0:
            raise UnpackError(
                f"its content is more than {MOST_RATIO} times its size ({self._size} bytes), as of an archive bomb",
                ELSEWHERE,
            )


def shown(name: str) -> str:
    """A member's name for a message: one line, printable, not too long."""
    return ascii(name if len(name) <= 120 else name[:117] + "...")


class JoinedFile(io.RawIOBase):
    """Several files as one seekable file; ``starts`` are their places in it, and the end of the last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self.starts = [0]
        for path in paths:
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("a place before the start of the file")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        for number, file in enumerate(self._files):
            if self.starts[number] <= self._place < self.starts[number + 1]:
                file.seek(self._place - self.starts[number])
                count = file.readinto(buffer)
                self._place += count
                return int(count)
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def check_volumes(paths: Sequence[Path]) -> None:
    """Raises :class:`UnpackError` if volumes are in another order than their names, doubled, or one is missing."""

    def natural(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name.lower())
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts if part]

    # A plain tar has no checksum of its data: parts that were exchanged may give a tar that reads well.
    names = [path.name for path in paths]
    ordered = sorted(names, key=natural)
    if names != ordered:
        raise UnpackError(f"the order of its parts should be {', '.join(ordered)}", "give them in that order")
    for one, next_one in zip(paths, paths[1:], strict=False):
        if one.name == next_one.name or _same_content(one, next_one):
            raise UnpackError(f"{next_one.name} is the same file as {one.name}", "fetch it again")
        first, second = (re.split(r"(\d+)", path.name) for path in (one, next_one))
        changed = [place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
        if len(first) == len(second) and len(changed) == 1 and changed[0] % 2:
            number, next_number = int(first[changed[0]]), int(second[changed[0]])
            if next_number != number + 1:
                raise UnpackError(f"there is no part between {one.name} and {next_one.name}", "fetch what is missing")


def _same_content(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size or not one.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(_MOST_OUT):
            if chunk != second.read(_MOST_OUT):
                return False
    return True


def tar_members(source: IO[bytes], budget: Budget) -> Iterator[Member]:
    """Members in their order; the data of one must be read before the next is asked for.

    When the iterator ends, all of ``source`` was read: checksums of the compression, every header's checksum, the
    end-of-archive block, and only padding behind it. Raises :class:`UnpackError` otherwise, and any error that the
    decoders raise on damaged data.
    """
    stream = _Stream(_decompressed(source), budget)
    extended: dict[str, str] = {}
    defaults: dict[str, str] = {}
    while True:
        block = stream.take(_BLOCK, "a header")
        if block.count(0) == _BLOCK:  # the end of the archive
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnpackError(f"{error} in the header at byte {stream.place - _BLOCK}") from error
        if info.size < 0:
            raise UnpackError(f"the header at byte {stream.place - _BLOCK} has a negative size")
        # GNU's own format has times where ustar has a prefix of the name, which the library prepends:
        # https://www.gnu.org/software/tar/manual/html_node/Standard.html (oldgnu_header)
        if block[257:265] == b"ustar  \0":
            info.name = _text(block[:100].partition(b"\0")[0])
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _pax_records(stream.header(info.size))
        elif info.type == tarfile.XGLTYPE:
            defaults |= _pax_records(stream.header(info.size))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            extended["path"] = _text(stream.header(info.size).partition(b"\0")[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            stream.header(info.size)  # the target of a link, which is refused when it follows
        elif info.type != _VOLUME_LABEL:
            yield _tar_member(info, defaults | extended, stream)
            extended = {}
    if extended:
        raise UnpackError("it ends behind the extended header of a member that is not there")
    _check_tar_end(stream)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _tar_member(info: tarfile.TarInfo, extended: dict[str, str], stream: _Stream) -> Member:
    name = extended.get("path", info.name)
    if any(key.startswith("GNU.sparse.") for key in extended):
        return Member(name, "a sparse file", 0)
    if info.type in _TAR_KINDS:
        return Member(name, _TAR_KINDS[info.type], 0)
    if info.type == tarfile.DIRTYPE:  # its permissions are not kept, so that setgid folders of clusters may pass
        return Member(name, "folder", 0)
    if info.type not in _FILES:
        return Member(name, f"a member of the unknown type {info.type!r}", 0)
    if info.mode & 0o6000:
        return Member(name, "a setuid or setgid file", 0)
    size = extended.get("size", str(info.size))  # the field of a header ends at 8 GiB
    if not (size.isascii() and size.isdigit()):
        raise UnpackError(f"an extended header gives the size {shown(size)}")
    return Member(name, "file", int(size), lambda: stream.content(int(size), name))


def _pax_records(data: bytes) -> dict[str, str]:
    r"""Records ``LENGTH KEY=VALUE\n``; every byte has to belong to one."""
    found: dict[str, str] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or not key or length > len(data) or data[length - 1 : length] != b"\n":
            raise UnpackError("an extended header cannot be read")
        found[_text(key)] = _text(value)
        data = data[length:]
    return found


def _check_tar_end(stream: _Stream) -> None:
    """Read on to the end: zero blocks up to the end of a record, and nothing else."""
    tail, end = _BLOCK, stream.place - _BLOCK
    while chunk := bytes(stream.some(_MOST_OUT)):
        if chunk.count(0) != len(chunk):
            raise UnpackError(f"zeros stand in place of a header at byte {end}, and data follow them")
        tail += len(chunk)
        if tail > _MOST_RECORD + 2 * _BLOCK:
            break
    # A download that was laid out in full and never filled ends in zeros as well, and parts of a split tar may end
    # between members. Writers end with two blocks, or fill a record: 20 blocks unless told another number.
    total = end + tail
    records = [
        base << power for base in (_BLOCK, 20 * _BLOCK) for power in range(12) if base << power <= _MOST_RECORD
    ]
    if tail > 2 * _BLOCK and not any(total % size == 0 and tail <= size + 2 * _BLOCK for size in records):
        raise UnpackError(f"from byte {end} on it has only zeros, and they do not fill a record: data are missing")


class _Stream:
    """Exact reads from chunks, counted; ``place`` is the number of bytes returned so far."""

    def __init__(self, chunks: Iterator[bytes], budget: Budget) -> None:
        self._chunks = chunks
        self._budget = budget
        self._chunk = memoryview(b"")
        self.place = 0

    def some(self, most: int) -> memoryview:
        """At least one byte; nothing at the end."""
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
            part = self.some(count)
            if not part:
                raise UnpackError(f"it ends at byte {self.place}, where {what} should be: it is not whole")
            count -= len(part)
            yield part

    def take(self, count: int, what: str) -> bytes:
        """``count`` bytes at once."""
        return b"".join(self.pieces(count, what))

    def content(self, size: int, name: str) -> Iterator[memoryview]:
        """The data of a member; the padding behind it is read and left out."""
        yield from self.pieces(size, f"the rest of {shown(name)}")
        self.take(-size % _BLOCK, f"the end of {shown(name)}")

    def header(self, size: int) -> bytes:
        """The data of an extended header."""
        if size > _MOST_HEADER:
            raise UnpackError(f"an extended header of {size} bytes at byte {self.place}")
        return b"".join(self.content(size, "an extended header"))


class _Gzip:
    """:class:`zlib.decompressobj` with the interface of the other two decoders; zlib checks CRC and length itself."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)  # 16 + 15: a gzip header, and the largest window

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


_DECODERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


def _decompressed(source: IO[bytes]) -> Iterator[bytes]:
    """Chunks of the tar itself; its compression is seen from its first bytes, not from its name."""
    start = source.read(_CHUNK)
    make: Callable[[], Any] | None = None
    if start[257:262] != b"ustar":  # the name of the first member may begin like a compressed file
        make = next((decoder for begins, decoder in _DECODERS.items() if start.startswith(begins)), None)
        method = next((name for begins, name in _OTHER_COMPRESSION.items() if start.startswith(begins)), None)
        if method is not None:
            raise UnpackError(f"it is compressed with {method}, which is not supported", BY_HAND)
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
        # zeros behind a stream are padding (of tapes, or of xz to a multiple of 4), and not a stream that is damaged
        start = decoder.unused_data.lstrip(b"\0")
        while not start and (chunk := source.read(_CHUNK)):
            start = chunk.lstrip(b"\0")


def zip_members(source: IO[bytes], budget: Budget, starts: Sequence[int], own_volumes: bool) -> Iterator[Member]:
    """Members in the order of the central directory.

    Args:
        starts: Place of each volume in ``source`` and the end of the last; of a single file, 0 and its size.
        own_volumes: The volumes are zip's own (``.z01`` to ``.zip``) and not one archive that was cut.

    The number of members is compared with the stated one, every member's size and CRC with its data, and the local
    header with the directory. Raises :class:`UnpackError`, and any error that the library raises on damaged data.
    """
    count, disk, directory_end = _read_zip_end(source, starts[-1])
    with zipfile.ZipFile(source) as archive:
        members: list[Any] = archive.infolist()
        if len(members) % 65536 != count % 65536:  # writers without zip64 let the count wrap around
            raise UnpackError(f"its directory has {len(members)} members, its end says {count}")
        if own_volumes:
            if disk != len(starts) - 2:
                raise UnpackError(f"its end says that it has {disk + 1} volumes, and there are {len(starts) - 1}")
            _shift_to_volumes(archive, starts)
        elif len(starts) > 2 and members and min(info.header_offset for info in members):
            raise UnpackError("there are bytes in front of its first member; is a part there twice?")
        if archive.start_dir > directory_end:
            raise UnpackError("its directory is not where its end says")
        source.seek(0)
        # programs that unpack themselves stand in front of their archive, but no other archive does
        if source.read(4) == b"PK\3\4" and all(info.header_offset for info in members):
            raise UnpackError("it begins with a member that is not in its directory: several archives in one file?")
        _check_repeated(members)
        for info in members:
            yield _zip_member(archive, source, info, budget)


def _check_repeated(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raises :class:`UnpackError` for two files of one name, unless their content is the same."""
    seen: dict[str, tuple[int, int]] = {}
    for info in members:
        content = info.CRC, info.file_size
        # unlike in a tar, to which newer files are appended, nothing says which of them is right
        if seen.setdefault(posixpath.normpath(info.filename), content) != content:
            raise UnpackError(f"it contains {shown(info.filename)} twice, with different content", ELSEWHERE)


def _read_zip_end(source: IO[bytes], size: int) -> tuple[int, int, int]:
    """Number of members, number of the last volume, and end of the directory, from the archive's end record."""
    start = max(0, size - _END - 65535)  # the longest comment, whose length has 16 bits (APPNOTE 4.3.16)
    source.seek(start)
    tail = source.read(size - start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END:
        raise UnpackError("its end is not there: it is not whole")
    _, disk, _, _, count, _, _, comment = struct.unpack("<4s4H2LH", tail[at : at + _END])
    if tail[at + _END + comment :].strip(b"\0"):
        raise UnpackError("data follow its end")
    if len(tail) < at + _END + comment:
        raise UnpackError("its end is cut")
    # the locator (20 bytes) and the zip64 end record (56) are right before it (APPNOTE 4.3.14, 4.3.15)
    if at >= 20 + 56 and tail[at - 20 : at - 16] == b"PK\6\7" and tail[at - 76 : at - 72] == b"PK\6\6":
        zip64 = struct.unpack("<4sQ2H2L4Q", tail[at - 76 : at - 20])
        count = zip64[7] if count == 0xFFFF else count
        disk = zip64[4] if disk == 0xFFFF else disk
    return count, disk, start + at


def _shift_to_volumes(archive: zipfile.ZipFile, starts: Sequence[int]) -> None:
    """Count the members' places from the start of the first volume.

    A split archive states them from the start of their own volume (APPNOTE.TXT 4.4.16, relative offset of local
    header), and the library takes them for places in the volume with the directory.
    """
    members: list[Any] = archive.infolist()
    shift = max(start for start in starts if start <= archive.start_dir)  # of the volume that has the directory
    for info in members:
        if info.volume >= len(starts) - 1:
            raise UnpackError(f"{shown(info.filename)} is in volume {info.volume + 1}, which is not there")
        info.header_offset += starts[info.volume] - shift
        if hasattr(info, "_end_offset"):  # newer versions compare it with the next member's place, which has moved
            info._end_offset = None


def _zip_member(archive: zipfile.ZipFile, source: IO[bytes], info: zipfile.ZipInfo, budget: Budget) -> Member:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) in _ZIP_KINDS:
        return Member(info.filename, _ZIP_KINDS[stat.S_IFMT(mode)], 0)
    if info.is_dir():
        if info.file_size:
            raise UnpackError(f"its folder {shown(info.filename)} has data")
        return Member(info.filename, "folder", 0)
    if mode & 0o6000:
        return Member(info.filename, "a setuid or setgid file", 0)
    if info.flag_bits & _ENCRYPTED:
        raise UnpackError(f"{shown(info.filename)} is encrypted", BY_HAND)
    if info.compress_type not in _METHODS:
        raise UnpackError(
            f"{shown(info.filename)} has the compression method {info.compress_type}, which is not supported", BY_HAND
        )
    source.seek(info.header_offset)
    header = source.read(_LOCAL)
    if len(header) < _LOCAL or not header.startswith(b"PK\3\4"):
        raise UnpackError(f"there is no header of {shown(info.filename)} at byte {info.header_offset}")
    flags, method, name_length, extra_length = struct.unpack("<6x2H16x2H", header)
    # without bit 11 of the flags a name is in code page 437 of the IBM PC (APPNOTE, appendix D)
    written = source.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437")
    if method != info.compress_type or written != info.orig_filename:
        raise UnpackError(f"header and directory differ about {shown(info.filename)}")
    budget.spend(_ENTRY)
    place = info.header_offset + _LOCAL + name_length + extra_length
    return Member(
        info.filename, "file", info.file_size, lambda: _checked(_zip_data(archive, source, place, info), info, budget)
    )


def _checked(chunks: Iterator[bytes], info: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    """The data of a member; its size and CRC are compared behind the last byte."""
    count, crc = 0, 0
    for chunk in chunks:
        count, crc = count + len(chunk), zlib.crc32(chunk, crc)
        budget.spend(len(chunk))
        yield chunk
    if count != info.file_size:
        raise UnpackError(f"{shown(info.filename)} has {count} bytes and should have {info.file_size}")
    if crc != info.CRC:
        raise UnpackError(f"the checksum of {shown(info.filename)} is wrong")


def _zip_data(archive: zipfile.ZipFile, source: IO[bytes], place: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Decompressed chunks of bounded size of the member whose data start at ``place``."""
    special = info.flag_bits & (_PATCHED | _STRONGLY_ENCRYPTED)
    if info.compress_type == zipfile.ZIP_BZIP2:
        yield from _bzip2(source, place, info)
    elif info.compress_type != zipfile.ZIP_LZMA and max(info.compress_size, info.file_size) <= _CHUNK and not special:
        # At once: the library's own reader costs a small file more than all else that is done about it.
        source.seek(place)
        data = source.read(info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            # a byte more than stated, so that too much of it is seen; negative: without a header, as ZIP stores it
            data = zlib.decompressobj(-15).decompress(data, info.file_size + 1)
        yield data
    else:
        # The library bounds what it decompresses at once for deflate; for LZMA, only what it decompresses it from.
        size = 1 << 12 if info.compress_type == zipfile.ZIP_LZMA else _MOST_OUT
        with archive.open(info) as file:
            while chunk := file.read(size):
                yield chunk


def _bzip2(source: IO[bytes], place: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Like the library, in chunks of bounded size: 4 kB of bzip2 may become gigabytes."""
    # fixed in newer versions: https://github.com/python/cpython/issues/156002
    decoder, left = bz2.BZ2Decompressor(), info.compress_size
    while not decoder.eof:
        chunk = b""
        if decoder.needs_input:
            source.seek(place)
            chunk = source.read(min(left, _MOST_OUT))
            if not chunk:
                raise UnpackError(f"the data of {shown(info.filename)} end in the middle")
            place, left = place + len(chunk), left - len(chunk)
        yield decoder.decompress(chunk, _MOST_OUT)
