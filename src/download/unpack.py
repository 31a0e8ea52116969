"""The one unpacker of archives: read to the end and compared, bounded, files and folders only, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from src.common.errors import UserError
from src.common.log import get_logger
from src.download.archive_members import (
    BY_HAND,
    ELSEWHERE,
    Budget,
    JoinedFile,
    Member,
    UnpackError,
    check_volumes,
    shown,
    tar_members,
    zip_members,
)

log = get_logger(__name__)
ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip", ".7z")
ArchiveKind = Literal["archive", "tar", "zip", "split_zip"]
_BUFFER = 1 << 20
_ROOM = 64 << 20
"""Bytes written before the free space of the disk is looked at again."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_OTHER_DISK = "make room, or give another folder (ALARM_DATA_ROOT)"
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_OURS = re.compile(r"\..*\.(unpacked|unpacking)")


def is_archive(path: Path) -> bool:
    """Whether :func:`unpack` knows the file's ending."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into ``folder`` and return it, unless a mark in the folder says that this archive was unpacked before.

    The mark has the archive's size and time, so that another archive of that name is unpacked. Raises as
    :func:`unpack_volumes`.
    """
    # not a checksum: that would read all of the archive again at every start
    state = archive.stat()
    done = f"{state.st_size} {state.st_mtime_ns}"
    mark = folder / f".{archive.name}.unpacked"
    if mark.is_file() and mark.read_bytes() == done.encode():
        return folder
    unpack_volumes([archive], "archive", folder)
    mark.write_text(done)
    return folder


def unpack_volumes(paths: Sequence[Path], kind: ArchiveKind, folder: Path) -> Path:
    """Unpack an archive in one or several files into ``folder`` and return it; no mark is left.

    Members are written to a hidden folder in ``folder`` and moved to their places when the archive was read to its
    end without an error, so that one that is damaged, refused or interrupted leaves nothing. Files that are there
    already under the same names are replaced. Permissions, owners and times are not kept.

    Args:
        kind: ``archive`` for one file, known by its ending; ``tar`` (compressed or not) or ``zip`` for an archive
            that was cut anywhere; ``split_zip`` for zip's own volumes, ``.z01`` to the last, ``.zip``.

    Raises :class:`UserError` if the archive is damaged, encrypted or of an unknown method, contains no file or
    anything but files and folders below ``folder``, unpacks to far more than its size, or does not fit the disk.
    """
    where = str(paths[0]) if len(paths) == 1 else ", ".join(path.name for path in paths)
    log.info("unpacking %s", where)
    staging = folder / f".{paths[0].name}.unpacking"
    try:
        with _disk_errors(staging):
            if staging.is_symlink() or staging.is_file():
                staging.unlink()
            elif staging.exists():  # an interrupted run left it
                shutil.rmtree(staging)
            staging.mkdir(parents=True)
        _write_members(paths, kind, staging)
        _move(staging, folder, dry=True)  # what is in the way is found before anything has been moved
        _move(staging, folder, dry=False)
    except UnpackError as problem:
        raise UserError(f"{where} cannot be unpacked: {problem}; {problem.fix}") from problem
    finally:
        if staging.is_dir() and not staging.is_symlink():
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _write_members(paths: Sequence[Path], kind: ArchiveKind, staging: Path) -> None:
    """Read, check and write all members; errors of the decoders become :class:`UnpackError`."""
    name = paths[0].name.lower()
    try:
        if len(paths) > 1:
            check_volumes(paths)
        budget = Budget(sum(path.stat().st_size for path in paths))
        if kind == "archive" and name.endswith(".7z"):
            _unpack_7z(paths[0], staging, budget)
            return
        with JoinedFile(paths) as joined, io.BufferedReader(joined, _BUFFER) as source:
            if kind in ("zip", "split_zip") or (kind == "archive" and name.endswith(".zip")):
                members = zip_members(source, budget, joined.starts, kind == "split_zip")
            else:
                members = tar_members(source, budget)
            writer = _MemberWriter(str(staging))
            for member in members:
                if not writer.write(member) and len(paths) > 1:
                    raise UnpackError(f"{shown(member.name)} is in it twice; is a part there twice?")
            if not writer.has_files:
                raise UnpackError("it contains no file")
    except UnpackError:
        raise
    except NotImplementedError as error:  # zipfile: a newer version of the format, strong encryption
        raise UnpackError(str(error), BY_HAND) from error
    except Exception as error:  # LZMAError, zlib.error, struct.error, EOFError and others
        reason = ascii(" ".join(str(error).split())[:200]).strip("'\"") or "it is not whole"
        if isinstance(error, OSError) and error.errno in _DISK:  # the archive may be whole
            raise UnpackError(f"the disk fails ({reason})", _OTHER_DISK) from error
        raise UnpackError(f"{reason} ({type(error).__name__})") from error


def _check(member: Member, staging: str) -> str:
    """The rules for every member of every format; its path in ``staging``."""
    name = member.name
    if member.kind not in ("file", "folder"):
        raise UnpackError(
            f"it contains {member.kind} ({shown(name)}), and only files and folders are unpacked", ELSEWHERE
        )
    if _ABSOLUTE.match(name) or "\0" in name:
        raise UnpackError(f"it contains the absolute path {shown(name)}", ELSEWHERE)
    # backslashes are parts of names here, but not on the system that may have written them
    if ".." in name and ".." in re.split(r"[/\\]", name):
        raise UnpackError(f"it contains a path that leaves the folder, {shown(name)}", ELSEWHERE)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any(part[0] == "." and _OURS.fullmatch(part) for part in parts):
        raise UnpackError(f"it contains {shown(name)}, which is the name of a mark of this program", ELSEWHERE)
    if not parts and member.kind == "file":
        raise UnpackError(f"it contains a file without a name ({shown(name)})")
    return "/".join([staging, *parts])


class _MemberWriter:
    """Writes members below a new folder. Paths are texts: archives have millions of members."""

    def __init__(self, staging: str) -> None:
        self._staging = staging
        self._folders = {staging}
        self._written: set[str] = set()
        self._room = 0

    @property
    def has_files(self) -> bool:
        """Whether a file was written."""
        return bool(self._written)

    def write(self, member: Member) -> bool:
        """Write one member; whether it is a folder or the first file of this name."""
        target = _check(member, self._staging)
        folder = target if member.kind == "folder" else os.path.dirname(target)
        if folder not in self._folders:
            with _disk_errors(target):
                os.makedirs(folder, exist_ok=True)
            self._folders.add(folder)
        if member.kind == "folder":
            return True
        first = target not in self._written
        self._written.add(target)
        with _disk_errors(target):
            if member.size > self._room:
                free = shutil.disk_usage(self._staging).free
                if member.size > free:
                    raise UnpackError(
                        f"{shown(member.name)} has {member.size} bytes, the disk has {free} free", "make room"
                    )
                self._room = min(free, max(_ROOM, member.size))
            self._room -= member.size
            # 0o666: the umask decides, as for any new file; the permissions in the archive are not kept
            file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            for data in member.read():
                with _disk_errors(target):
                    view = memoryview(data)
                    while view:  # write(2) may take less than it is given, as before a disk is full
                        view = view[os.write(file, view) :]
        finally:
            os.close(file)
        return first


@contextlib.contextmanager
def _disk_errors(target: str | Path) -> Iterator[None]:
    """Errors of the disk are not the archive's fault."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        disk = isinstance(error, OSError) and error.errno in _DISK
        folder, _, name = str(target).rpartition("/")
        raise UnpackError(
            f"{shown(name)} cannot be written in {folder}: {reason}",
            _OTHER_DISK if disk else ELSEWHERE,
        ) from error


def _move(source: Path, target: Path, dry: bool) -> None:
    """Move the content of ``source`` into ``target``, folders merged; ``dry`` only checks that nothing is in the way.

    Nothing is written through a link that is there, whoever made it.
    """
    with _disk_errors(target), os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda found: found.name):
            place = target / entry.name
            try:
                mode = place.lstat().st_mode
            except FileNotFoundError:
                if not dry:
                    os.rename(entry.path, place)
                continue
            if entry.is_dir() and stat.S_ISDIR(mode):
                _move(Path(entry.path), place, dry)
            elif entry.is_dir() or not stat.S_ISREG(mode):
                raise UnpackError(
                    f"{place} is in the way (a link, or a file in place of a folder)", f"remove {place}"
                )
            elif not dry:
                os.replace(entry.path, place)


def _unpack_7z(archive: Path, staging: Path, budget: Budget) -> None:
    """The library writes the files itself: members are checked before, and the written files afterwards."""
    try:
        import py7zr
    except ImportError as error:
        raise UnpackError("7z archives need py7zr", "pip install py7zr, or unpack it by hand") from error
    try:
        with py7zr.SevenZipFile(archive) as packed:
            if packed.needs_password():
                raise UnpackError("it is encrypted", BY_HAND)
            expected: dict[Path, int] = {}
            for entry in packed.files:
                member = _member_7z(entry)
                target = Path(_check(member, str(staging)))
                budget.spend(member.size)
                if member.kind == "file":
                    expected[target] = member.size
            free = shutil.disk_usage(staging).free
            if sum(expected.values()) > free:
                raise UnpackError(
                    f"its content has {sum(expected.values())} bytes, the disk has {free} free", "make room"
                )
            packed.extractall(staging)
    except py7zr.exceptions.PasswordRequired as error:
        raise UnpackError("it is encrypted", BY_HAND) from error
    except py7zr.exceptions.CrcError as error:
        raise UnpackError(f"the checksum of {shown(str(error.args[-1]))} is wrong") from error
    except py7zr.exceptions.UnsupportedCompressionMethodError as error:
        raise UnpackError("its compression method is not supported", BY_HAND) from error
    written = {path: path.lstat().st_size for path in staging.rglob("*") if path.is_symlink() or not path.is_dir()}
    if not expected:
        raise UnpackError("it contains no file")
    if written != expected:
        raise UnpackError(f"it has {len(expected)} files, and {len(written)} came out as its directory says")


def _member_7z(entry: object) -> Member:
    get = lambda name: getattr(entry, name, None)  # noqa: E731  # attributes differ between versions of py7zr
    name, mode = str(get("filename")), get("posix_mode") or 0
    if get("is_symlink") or get("is_junction") or get("is_socket"):
        return Member(name, "a link or a socket", 0)
    if get("is_directory"):
        return Member(name, "folder", 0)
    if mode & 0o6000:
        return Member(name, "a setuid or setgid file", 0)
    return Member(name, "file", int(get("uncompressed") or 0))
