"""Archives unpacked once."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip", ".7z")


def is_archive(path: Path) -> bool:
    """Whether :func:`unpack` knows the file's ending."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into ``folder`` and return it. A mark in the folder tells that this archive was done: it is not done
    again, unless the archive is another one now.

    Raises :class:`UserError` if the archive is damaged or holds paths that leave the folder.
    """
    state = archive.stat()
    done = f"{state.st_size} {state.st_mtime_ns}"
    mark = folder / f".{archive.name}.unpacked"
    if mark.is_file() and mark.read_text() == done:
        return folder
    log.info("unpacking %s", archive)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)
        elif archive.name.lower().endswith(".7z"):
            _unpack_7z(archive, folder)
        elif archive.name.lower().endswith((".gz", ".tgz")) and shutil.which("pigz") and shutil.which("tar"):
            _unpack_with_pigz(archive, folder)
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{archive} cannot be unpacked: {reason}; remove it and run this again") from error
    mark.write_text(done)
    return folder


def _unpack_with_pigz(archive: Path, folder: Path) -> None:
    command = ["tar", "--use-compress-program=pigz", "--no-same-owner", "-xf", str(archive), "-C", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise tarfile.ReadError(done.stderr.strip()[-200:])


def _unpack_7z(archive: Path, folder: Path) -> None:
    try:
        import py7zr
    except ImportError as error:
        raise UserError(f"{archive.name} is a 7z archive: pip install py7zr, or unpack it by hand") from error
    try:
        with py7zr.SevenZipFile(archive) as packed:
            packed.extractall(folder)
    except py7zr.exceptions.ArchiveError as error:
        raise OSError(str(error) or type(error).__name__) from error
