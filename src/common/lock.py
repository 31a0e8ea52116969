"""One writer for a folder: a lock that goes with the process that holds it, however it ends."""

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
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.machine import say_where
from src.common.run_record import write_json

log = get_logger(__name__)
LOCK_SECONDS = 20.0
"""How long to wait for the end of another run; a killed one's processes may take a moment."""
_SAY_AFTER = 2.0
"""Seconds of waiting after which it is said."""


@dataclass
class Hold:
    """A folder that this process alone writes, until :meth:`close`.

    ``changed``: another run wrote in it while this one waited for it. What it wrote is news to this run, and nothing
    that its user has told it to overwrite.
    """

    directory: Path
    descriptor: int | None
    """``None`` on file systems without locks."""
    changed: bool = False

    def close(self) -> None:
        """Give the folder free."""
        if self.descriptor is None:
            return
        with suppress(OSError):
            holder_file(self.directory).unlink()
        os.close(self.descriptor)
        self.descriptor = None


def hold_folder(directory: Path) -> Hold:
    """Hold a folder, which is made if it is not there.

    Raises :class:`UserError` if another process holds the folder for :data:`LOCK_SECONDS` more: it says which one.
    """
    began = time.monotonic()
    since, said = time.time(), False
    waited = False
    descriptor = _open(directory)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            waited = True
            if time.monotonic() - began > LOCK_SECONDS:
                os.close(descriptor)
                raise UserError(
                    f"{directory}: another run is writing here{_holder(directory)}; wait for it, or end it"
                ) from error
            if not said and time.monotonic() - began > _SAY_AFTER:
                log.info("%s: waiting for another run that is writing here%s", directory, _holder(directory))
                said = True
            time.sleep(0.2)
        except OSError:
            os.close(descriptor)
            return Hold(directory, None)
        else:
            if _is_still(descriptor, directory):
                break
            os.close(descriptor)  # it was removed or exchanged meanwhile: others hold what has its name now
            waited = True
            descriptor = _open(directory)
    with suppress(OSError):  # only information; a folder that cannot be written is told by what writes into it
        write_json(holder_file(directory), _me())
    return Hold(directory, descriptor, waited and _written_since(directory, since))


@contextmanager
def held(directories: Sequence[Path]) -> Iterator[bool]:
    """Hold several folders, each once and always in the same order, so that two runs never wait for each other.

    Yields whether another run wrote in one of them while this one waited: then nothing in them may be discarded.
    Folders that this made and that are still empty are removed.
    """
    holds: list[Hold] = []
    made = [directory for directory in dict.fromkeys(directories) if not directory.exists()]
    try:
        for directory in sorted(set(directories)):
            holds.append(hold_folder(directory))
        yield any(hold.changed for hold in holds)
    except Exception as error:
        if directories:
            say_where(error, directories[0])
        raise
    finally:
        for directory in made:
            with suppress(OSError):  # not empty
                directory.rmdir()
        for hold in holds:
            hold.close()


def may_discard(overwrite: bool, changed: bool, directory: Path, option: str = "--overwrite") -> bool:
    """Whether results in a held folder are to be discarded; not those that another run wrote during the wait."""
    if overwrite and changed:
        log.warning(
            "%s: another run wrote here while this one waited for it; its results are kept (start again with %s to "
            "discard them)",
            directory,
            option,
        )
    return overwrite and not changed


def empty_folder(directory: Path) -> None:
    """Remove all that is in a folder and leave the folder, which may be held."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def holder_file(directory: Path) -> Path:
    """Says who holds a folder; beside it, so that the folder holds nothing but results."""
    return directory.with_name(f".{directory.name}.holder")


def _open(directory: Path) -> int:
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed between the two
            time.sleep(0.01)


def _is_still(descriptor: int, directory: Path) -> bool:
    """Whether the open folder is the one that has the name now."""
    try:
        now = os.stat(directory)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)


def _me() -> dict[str, Any]:
    command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command[:500],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _holder(directory: Path) -> str:
    """Who holds a folder, in brackets; nothing if it does not say."""
    try:
        told = json.loads(holder_file(directory).read_text(encoding="utf-8"))
        who = f"process {told['pid']} on {told['host']}, since {told['started']}: {told['command']}"
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
