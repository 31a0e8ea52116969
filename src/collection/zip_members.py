"""Members of ZIP archives, whole or in volumes, with what the standard library does not compare.

Source: PKWARE, APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import bz2
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from src.collection.members import BY_HAND, Budget, Member, UnpackError, shown

_CHUNK = 1 << 20
_SMALL = 1 << 12
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED, _UTF8 = 0x1, 0x800
_END, _LOCAL = 22, 30
_ENTRY = 512
"""Counted for each member besides its data."""
_TYPES = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
          stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip


def zip_members(source: IO[bytes], budget: Budget, starts: Sequence[int], own_volumes: bool) -> Iterator[Member]:
    """Members in the order of the central directory.

    Args:
        starts: Place of each volume in ``source`` and the end of the last; of a whole archive, 0 and its size.
        own_volumes: The volumes are zip's own (``.z01`` to ``.zip``) and not one archive that was cut.

    The number of members is compared with the stated one, every member's size and CRC with its data, and the local
    header with the directory. Raises :class:`UnpackError`, and whatever the library raises on damaged data.
    """
    count, disk, directory_end = _read_end(source, starts[-1])
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
        for info in members:
            yield _member(archive, source, info, budget)


def _read_end(source: IO[bytes], size: int) -> tuple[int, int, int]:
    """Number of members, number of the last volume, and end of the directory, from the archive's end record."""
    start = max(0, size - _END - 65535)
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
    if at >= 20 + 56 and tail[at - 20 : at - 16] == b"PK\6\7" and tail[at - 76 : at - 72] == b"PK\6\6":
        zip64 = struct.unpack("<4sQ2H2L4Q", tail[at - 76 : at - 20])
        count = zip64[7] if count == 0xFFFF else count
        disk = zip64[4] if disk == 0xFFFF else disk
    return count, disk, start + at


def _member(archive: zipfile.ZipFile, source: IO[bytes], info: zipfile.ZipInfo, budget: Budget) -> Member:
    name = shown(info.filename)
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) in _TYPES:
        return Member(info.filename, _TYPES[stat.S_IFMT(mode)], 0)
    if info.is_dir():
        if info.file_size:
            raise UnpackError(f"its folder {name} has data")
        return Member(info.filename, "folder", 0)
    if mode & 0o6000:
        return Member(info.filename, "a setuid or setgid file", 0)
    if info.flag_bits & _ENCRYPTED:
        raise UnpackError(f"{name} is encrypted", BY_HAND)
    if info.compress_type not in _METHODS:
        raise UnpackError(f"{name} has the compression method {info.compress_type}, which is not supported", BY_HAND)
    source.seek(info.header_offset)
    header = source.read(_LOCAL)
    if len(header) < _LOCAL or not header.startswith(b"PK\3\4"):
        raise UnpackError(f"there is no header of {name} at byte {info.header_offset}")
    flags, method, name_length, extra_length = struct.unpack("<6x2H16x2H", header)
    written = source.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437")
    if method != info.compress_type or written != info.orig_filename:
        raise UnpackError(f"header and directory differ about {name}")
    budget.spend(_ENTRY)
    data = info.header_offset + _LOCAL + name_length + extra_length
    if method == zipfile.ZIP_BZIP2:
        return Member(
            info.filename, "file", info.file_size, lambda: _checked(_bzip2(source, data, info), info, budget)
        )
    return Member(info.filename, "file", info.file_size, lambda: _checked(_read(archive, info), info, budget))


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


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    # The library bounds what it decompresses at once for deflate; for LZMA, only what it decompresses it from.
    size = _SMALL if info.compress_type == zipfile.ZIP_LZMA else _CHUNK
    with archive.open(info) as file:
        while chunk := file.read(size):
            yield chunk


def _bzip2(source: IO[bytes], place: int, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The library would decompress 4 kB of this at once, which may be gigabytes."""
    decoder, left = bz2.BZ2Decompressor(), info.compress_size
    while not decoder.eof:
        chunk = b""
        if decoder.needs_input:
            source.seek(place)
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise UnpackError(f"the data of {shown(info.filename)} end in the middle")
            place, left = place + len(chunk), left - len(chunk)
        yield decoder.decompress(chunk, _CHUNK)


def _shift_to_volumes(archive: zipfile.ZipFile, starts: Sequence[int]) -> None:
    """Members of a split archive count their place from the start of their volume; the library, from the first's.

    Source: APPNOTE.TXT 4.4.16, relative offset of local header.
    """
    members: list[Any] = archive.infolist()
    shift = max(start for start in starts if start <= archive.start_dir)  # of the volume that holds the directory
    for info in members:
        if info.volume >= len(starts) - 1:
            raise UnpackError(f"{shown(info.filename)} is in volume {info.volume + 1}, which is not there")
        info.header_offset += starts[info.volume] - shift
        if hasattr(info, "_end_offset"):  # newer versions compare it with the next member's place, which has moved
            info._end_offset = None
