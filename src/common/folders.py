"""Replace a folder by a finished one: a killed process leaves the old one or the new one."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def swap_in(fresh: Path, folder: Path) -> None:
    """Put the finished folder ``fresh`` in the place of ``folder``, whose files are removed.

    One system call exchanges both. On a file system that cannot do this, the old folder is renamed first; if the
    process is killed right then, :func:`recover` brings it back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover(folder)
    if not folder.exists():
        fresh.replace(folder)
        return
    old = fresh
    if not _exchange(fresh, folder):
        old = _old_of(folder)
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring a folder back whose process was killed while it was replaced."""
    old = _old_of(folder)
    if old.is_dir() and not folder.exists():
        old.replace(folder)


def _old_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux, ``renameat2``); false where that is not possible."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
