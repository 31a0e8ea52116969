"""Unpacking archives into a tree; an archive in several parts is read as one file, without joining it on disk."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.common.errors import UserError


class JoinedFile(io.RawIOBase):
    """Several files as one seekable file."""

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


def unpack(paths: Sequence[Path], kind: str, folder: Path) -> None:
    """Unpack an archive (``zip``, ``split_zip``, ``tar`` compressed or not, ``7z``) or copy a plain ``file``.

    Members that would land outside ``folder`` are refused. Raises :class:`UserError` naming a broken archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = paths[0].name
    try:
        if kind == "file":
            _link(paths[0], folder / name)
        elif kind == "7z":
            _unpack_7z(paths[0], folder)
        else:
            with _opened(paths) as source:
                _unpack_stream(source, kind, folder, name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{name} cannot be unpacked ({type(error).__name__}: {error}); if the file is not whole, remove it and start again"
        ) from error


def _unpack_stream(source: Any, kind: str, folder: Path, name: str) -> None:
    if kind == "tar":
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in _progress(archive, name, None):
                if member.isdir() or member.isfile():
                    archive.extract(member, folder, filter="data")
        return
    with zipfile.ZipFile(source) as archive_zip:
        if kind == "split_zip":
            _shift_to_volumes(archive_zip, source.raw.starts)
        for info in _progress(archive_zip.infolist(), name, len(archive_zip.infolist())):
            archive_zip.extract(info, folder)


def _shift_to_volumes(archive: zipfile.ZipFile, starts: list[int]) -> None:
    """Members of a split archive count their place from the start of their volume; the library, from the first's.

    Source: APPNOTE.TXT 4.4.16, relative offset of local header.
    """
    members: list[Any] = archive.infolist()
    shift = max(start for start in starts if start <= archive.start_dir)  # of the volume that holds the directory
    for info in members:
        info.header_offset += starts[info.volume] - shift
        info._end_offset = None  # newer versions compare it with the next member's place, which has moved


def _unpack_7z(path: Path, folder: Path) -> None:
    try:
        import py7zr
    except ImportError as error:
        raise UserError(f"{path.name} is a 7z archive: pip install py7zr, or unpack it by hand") from error
    try:
        with py7zr.SevenZipFile(path) as archive:
            archive.extractall(folder)
    except py7zr.exceptions.ArchiveError as error:
        raise OSError(str(error)) from error


@contextlib.contextmanager
def _opened(paths: Sequence[Path]) -> Iterator[Any]:
    with io.BufferedReader(JoinedFile(paths), 1 << 20) as source:
        yield source


def _progress(members: Any, name: str, total: int | None) -> Any:
    from tqdm import tqdm

    return tqdm(members, desc=f"unpacking {name}", total=total, unit=" files", unit_scale=True, leave=False)


def _link(source: Path, target: Path) -> None:
    """The same file under another name where the file system allows it, else a copy."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
