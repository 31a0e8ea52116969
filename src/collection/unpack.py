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
from typing import IO, Literal

from src.collection.members import BY_HAND, ELSEWHERE, Budget, Member, UnpackError, shown
from src.collection.split_archives import JoinedFile, check_volumes
from src.collection.tar_members import tar_members
from src.collection.zip_members import zip_members
from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip", ".7z")
Kind = Literal["archive", "tar", "zip", "split_zip"]
_BUFFER = 1 << 20
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_OURS = re.compile(r"\..*\.(unpacked|unpacking)")


def is_archive(path: Path) -> bool:
    """Whether :func:`unpack` knows the file's ending."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into ``folder`` and return it. A mark in the folder tells that this archive was done: it is not done
    again, unless the archive is another one now.

    Raises as :func:`unpack_volumes`.
    """
    state = archive.stat()
    done = f"{state.st_size} {state.st_mtime_ns}"
    mark = folder / f".{archive.name}.unpacked"
    if mark.is_file() and mark.read_text() == done:
        return folder
    unpack_volumes([archive], "archive", folder)
    mark.write_text(done)
    return folder


def unpack_volumes(paths: Sequence[Path], kind: Kind, folder: Path) -> Path:
    """Unpack an archive in one or several files into ``folder`` and return it; no mark is left.

    Members are written to a hidden folder in ``folder`` and moved to their places when the archive was read to its
    end and is whole, so that one that is damaged, refused or interrupted leaves nothing. Files that are there
    already under the same names are replaced. Permissions, owners and times are not kept.

    Args:
        kind: ``archive`` for one file, known by its ending; ``tar`` (compressed or not) or ``zip`` for an archive
            that was cut anywhere; ``split_zip`` for zip's own volumes, ``.z01`` to the last, ``.zip``.

    Raises :class:`UserError` if the archive is damaged, encrypted or of an unknown method, contains anything but
    files and folders below ``folder``, unpacks to far more than its size, or does not fit the disk.
    """
    where = str(paths[0]) if len(paths) == 1 else ", ".join(path.name for path in paths)
    log.info("unpacking %s", where)
    staging = folder / f".{paths[0].name}.unpacking"
    try:
        _make_empty(staging)
        _write_members(paths, _kind(paths[0]) if kind == "archive" else kind, staging)
        _move(staging, folder, dry=True)
        _move(staging, folder, dry=False)
    except UnpackError as problem:
        raise UserError(f"{where} cannot be unpacked: {problem}; {problem.fix}") from problem
    finally:
        if staging.is_dir() and not staging.is_symlink():
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _kind(path: Path) -> str:
    name = path.name.lower()
    return "zip" if name.endswith(".zip") else "7z" if name.endswith(".7z") else "tar"


def _write_members(paths: Sequence[Path], kind: str, staging: Path) -> None:
    """Read, check and write; errors of the readers become one kind."""
    try:
        if len(paths) > 1:
            check_volumes(paths)
        budget = Budget(sum(path.stat().st_size for path in paths))
        if kind == "7z":
            _unpack_7z(paths[0], staging, budget)
            return
        with JoinedFile(paths) as joined, io.BufferedReader(joined, _BUFFER) as source:
            seen: set[str] = set()
            for member in _members(source, kind, budget, joined.starts):
                target = _check(member, staging)
                if member.kind == "folder":
                    with _writing(target):
                        target.mkdir(parents=True, exist_ok=True)
                    continue
                if len(paths) > 1 and str(target) in seen:
                    raise UnpackError(f"{shown(member.name)} is in it twice; is a part there twice?")
                seen.add(str(target))
                _write(member, target)
    except UnpackError:
        raise
    except Exception as error:  # the decoders raise whatever they stumble over: LZMAError, zlib.error, struct.error …
        reason = ascii(" ".join(str(error).split())[:200]).strip("'\"") or "it is not whole"
        raise UnpackError(f"{reason} ({type(error).__name__})") from error


def _members(source: IO[bytes], kind: str, budget: Budget, starts: Sequence[int]) -> Iterator[Member]:
    if kind == "tar":
        return tar_members(source, budget)
    return zip_members(source, budget, starts, kind == "split_zip")


def _check(member: Member, staging: Path) -> Path:
    """The rules for every member of every format; its path in ``staging``."""
    name = shown(member.name)
    if member.kind not in ("file", "folder"):
        raise UnpackError(f"it contains {member.kind} ({name}), and only files and folders are unpacked", ELSEWHERE)
    if member.name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", member.name) or "\0" in member.name:
        raise UnpackError(f"it contains the absolute path {name}", ELSEWHERE)
    if ".." in re.split(r"[/\\]", member.name):
        raise UnpackError(f"it contains a path that leaves the folder, {name}", ELSEWHERE)
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if any(_OURS.fullmatch(part) for part in parts):
        raise UnpackError(f"it contains {name}, which is the name of a mark of this program", ELSEWHERE)
    if not parts and member.kind == "file":
        raise UnpackError(f"it contains a file without a name ({name})")
    return staging.joinpath(*parts)


def _write(member: Member, target: Path) -> None:
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if member.size > free:
            raise UnpackError(f"{shown(member.name)} has {member.size} bytes, the disk has {free} free", "make room")
        file = target.open("wb", buffering=0)
    with file:
        for data in member.read():
            with _writing(target):
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Errors of the disk are not the archive's fault."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        disk = isinstance(error, OSError) and error.errno in _DISK
        raise UnpackError(
            f"{shown(target.name)} cannot be written in {target.parent}: {reason}",
            "make room, or give another folder (ALARM_DATA_ROOT)" if disk else ELSEWHERE,
        ) from error


def _make_empty(staging: Path) -> None:
    """A new folder in place of what an interrupted run left."""
    with _writing(staging):
        if staging.is_symlink() or staging.is_file():
            staging.unlink()
        elif staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(parents=True)


def _move(source: Path, target: Path, dry: bool) -> None:
    """Move what is in ``source`` into ``target``, folders merged; ``dry`` only checks that nothing is in the way.

    Nothing is written through a link that is there, whoever made it.
    """
    with _writing(target), os.scandir(source) as entries:
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
    """The library writes the files itself: the members are checked before, and what it wrote afterwards."""
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
                target = _check(member, staging)
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
    if written != expected:
        raise UnpackError(f"it has {len(expected)} files, and {len(written)} came out as its directory says")


def _member_7z(entry: object) -> Member:
    get = lambda name: getattr(entry, name, None)  # noqa: E731
    name, mode = str(get("filename")), get("posix_mode") or 0
    if get("is_symlink") or get("is_junction") or get("is_socket"):
        return Member(name, "a link or a socket", 0)
    if get("is_directory"):
        return Member(name, "folder", 0)
    if mode & 0o6000:
        return Member(name, "a setuid or setgid file", 0)
    return Member(name, "file", int(get("uncompressed") or 0))
