"""A part of an open file, as a file of its own."""

from __future__ import annotations

from typing import BinaryIO


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
