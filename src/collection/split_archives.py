"""Archives in several files, read as one without joining them on disk."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.collection.members import UnpackError


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
    """Raises :class:`UnpackError` if volumes are in another order than their names, doubled, or one is missing.

    A plain tar has no checksum of its data: parts that were exchanged may give a tar that reads well.
    """
    names = [path.name for path in paths]
    ordered = sorted(names, key=_natural)
    if names != ordered:
        raise UnpackError(f"the order of its parts should be {', '.join(ordered)}", "give them in that order")
    for one, next_one in zip(paths, paths[1:], strict=False):
        if one.name == next_one.name or _same(one, next_one):
            raise UnpackError(f"{next_one.name} is the same file as {one.name}", "fetch it again")
        first, second = (re.split(r"(\d+)", path.name) for path in (one, next_one))
        changed = [place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
        if len(first) == len(second) and len(changed) == 1 and changed[0] % 2:
            number, next_number = int(first[changed[0]]), int(second[changed[0]])
            if next_number != number + 1:
                raise UnpackError(f"there is no part between {one.name} and {next_one.name}", "fetch what is missing")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name.lower()) if part]


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size or not one.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(1 << 20):
            if chunk != second.read(1 << 20):
                return False
    return True
