"""One writer for a folder: a lock that goes with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from src.common.errors import UserError

LOCK_SECONDS = 20.0
"""How long to wait for the end of another run; a killed one's processes may take a moment."""


def hold_folder(directory: Path) -> int | None:
    """An open descriptor that holds the folder, made if it is not there; ``None`` on file systems without locks.

    Close it (:func:`os.close`) to give the folder free. Raises :class:`UserError` if another process holds the
    folder for :data:`LOCK_SECONDS` more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() > until:
                os.close(descriptor)
                raise UserError(f"{directory}: another run is writing here; wait for it, or end it") from error
            time.sleep(0.2)
        except OSError:
            os.close(descriptor)
            return None


@contextmanager
def held(directories: Sequence[Path]) -> Iterator[None]:
    """Hold several folders, each once and always in the same order, so that two runs never wait for each other."""
    descriptors: list[int | None] = []
    try:
        for directory in sorted(set(directories)):
            descriptors.append(hold_folder(directory))
        yield
    finally:
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)


def empty_folder(directory: Path) -> None:
    """Remove all that is in a folder and leave the folder, which may be held."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
