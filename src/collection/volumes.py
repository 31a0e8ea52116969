"""Archives in several files, read as one without joining them on disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.common.errors import UserError


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


def unpack_volumes(paths: Sequence[Path], kind: str, folder: Path) -> Path:
    """Unpack an archive in several files into ``folder`` and return it.

    Args:
        kind: ``tar`` (compressed or not) or ``zip`` for one archive that was cut anywhere; ``split_zip`` for
            zip's own volumes, ``.z01`` to the last, ``.zip``.

    Raises :class:`UserError` if the archive is damaged or holds paths that leave the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with JoinedFile(paths) as joined, io.BufferedReader(joined, 1 << 20) as source:
            if kind == "tar":
                with tarfile.open(fileobj=source, mode="r|*") as packed_tar:
                    packed_tar.extractall(folder, filter="data")
            else:
                with zipfile.ZipFile(source) as packed:
                    if kind == "split_zip":
                        _shift_to_volumes(packed, joined.starts)
                    packed.extractall(folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        names = ", ".join(path.name for path in paths)
        raise UserError(
            f"{names} cannot be unpacked: {error}; remove what is not whole and run this again"
        ) from error
    return folder


def _shift_to_volumes(archive: zipfile.ZipFile, starts: list[int]) -> None:
    """Members of a split archive count their place from the start of their volume; the library, from the first's.

    Source: APPNOTE.TXT 4.4.16, relative offset of local header.
    """
    members: list[Any] = archive.infolist()
    shift = max(start for start in starts if start <= archive.start_dir)  # of the volume that holds the directory
    for info in members:
        info.header_offset += starts[info.volume] - shift
        if hasattr(info, "_end_offset"):  # newer versions compare it with the next member's place, which has moved
            info._end_offset = None
