"""Lock on a folder for one writing process; the operating system releases it when the process ends."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from src.common.errors import UserError, say_where
from src.common.files import recover, replaced_folder, write_json
from src.common.log import get_logger

log = get_logger(__name__)
LOCK_SECONDS = 20.0
"""How long to wait for another run to end; the processes of a killed one may take a moment."""
_LOG_AFTER = 2.0
"""Seconds of waiting after which it is logged."""


@dataclass
class FolderLock:
    """Exclusive lock on a folder until :meth:`close`.

    ``changed``: another run wrote into the folder while this one waited for the lock. Those results are newer than
    the user's wish to overwrite what was there.
    """

    directory: Path
    descriptor: int | None
    """``None`` on file systems without locks."""
    changed: bool = False

    def close(self) -> None:
        """Release the lock on the folder."""
        if self.descriptor is None:
            return
        with suppress(OSError):
            holder_file(self.directory).unlink()
        os.close(self.descriptor)
        self.descriptor = None


def lock_folder(directory: Path) -> FolderLock:
    """Lock a folder, which is created if it does not exist.

    Raises :class:`UserError` if it is a file, and naming the other process if that keeps the lock for more than
    :data:`LOCK_SECONDS`.
    """
    began = time.monotonic()
    since = time.time()  # compared with times of files, which are of this clock
    waited = logged = False
    descriptor = _open(directory)
    while True:
        try:
            # flock and not fcntl: a process loses its fcntl locks as soon as it closes any descriptor of the file
            # (fcntl(2)). Not blocking, so that the wait can be logged and bounded.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            waited = True
            if time.monotonic() - began > LOCK_SECONDS:
                os.close(descriptor)
                raise UserError(
                    f"{directory}: another run is writing here{_holder(directory)}; wait for it, or end it"
                ) from error
            if not logged and time.monotonic() - began > _LOG_AFTER:
                log.info("%s: waiting for another run that is writing here%s", directory, _holder(directory))
                logged = True
            time.sleep(0.2)
        except OSError:
            # Some network file systems lock no folders: NFS makes a lock of byte ranges of it, for which a file must
            # be open for writing (flock(2), "NFS details"), as a folder cannot be.
            os.close(descriptor)
            return FolderLock(directory, None)
        else:
            if _is_still(descriptor, directory):
                break
            # The folder was removed or exchanged meanwhile, so this lock is on a folder without a name.
            os.close(descriptor)
            waited = True
            descriptor = _open(directory)
    with suppress(OSError):  # only information; writing results reports a folder that cannot be written
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])[:500],
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        write_json(holder_file(directory), holder)
    return FolderLock(directory, descriptor, waited and _written_since(directory, since))


@contextmanager
def locked_folders(directories: Sequence[Path]) -> Iterator[bool]:
    """Lock several folders.

    Yields whether another run wrote into one of them while this one waited: then nothing in them may be discarded.
    Folders that this created and that are still empty are removed.
    """
    locks: list[FolderLock] = []
    made = [directory for directory in dict.fromkeys(directories) if not directory.exists()]
    try:
        for directory in sorted(set(directories)):  # in one order, or two runs could wait for each other
            locks.append(lock_folder(directory))
        yield any(lock.changed for lock in locks)
    except Exception as error:
        if directories:
            say_where(error, directories[0])
        raise
    finally:
        for directory in made:
            with suppress(OSError):  # not empty
                directory.rmdir()
        for lock in locks:
            lock.close()


def may_discard(overwrite: bool, changed: bool, directory: Path, option: str = "--overwrite") -> bool:
    """Whether to discard results in a locked folder; not those that another run wrote during the wait."""
    if overwrite and changed:
        log.warning(
            "%s: another run wrote here while this one waited for it; its results are kept (start again with %s to "
            "discard them)",
            directory,
            option,
        )
    return overwrite and not changed


def empty_folder(directory: Path) -> None:
    """Remove the content of a folder and keep the folder itself, which may be locked."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def holder_file(directory: Path) -> Path:
    """File that names the process that locks a folder; next to it, so that the folder contains only results."""
    return directory.with_name(f".{directory.name}.holder")


def _open(directory: Path) -> int:
    while True:
        _restore(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"{directory} is not a folder; remove it, or choose another folder") from error
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed between the two
            time.sleep(0.01)


def _restore(directory: Path) -> None:
    """Restore a folder whose process was killed while it was replaced; a new empty one would hide it.

    Only where no process locks the old folder; one that does is about to move the new one in.
    """
    old = replaced_folder(directory)
    if directory.exists() or not old.is_dir():
        return
    with suppress(OSError):
        descriptor = os.open(old, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            recover(directory)
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, directory: Path) -> bool:
    """Whether the open folder is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(directory))
    except FileNotFoundError:
        return False


def _holder(directory: Path) -> str:
    """The process that locks a folder, in brackets; empty if its file cannot be read."""
    try:
        record = json.loads(holder_file(directory).read_text(encoding="utf-8"))
        who = f"process {record['pid']} on {record['host']}, since {record['started']}: {record['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" ({who})"


def _written_since(directory: Path, moment: float) -> bool:
    """Whether a file below the folder was written after ``moment`` (seconds of the clock of this machine)."""
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                if os.stat(os.path.join(folder, name)).st_mtime >= moment:
                    return True
    return False
