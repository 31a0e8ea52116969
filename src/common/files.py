"""Files and folders written completely or not at all, and JSON lines.

JSON lines are split at line feeds only: ``str.splitlines`` also splits at U+2028, U+0085 and others, which JSON texts
may contain as they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from src.common.errors import UserError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_text(path: Path, text: str) -> None:
    r"""Write a file atomically: a killed process never leaves half of it.

    Characters that UTF-8 cannot encode (bytes of a file name) are escaped, as ``\udcff``: in JSON the same text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename is atomic within one file system only (rename(2)). The number of the process keeps
    # two that write the same file from writing into each other's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def split_lines(text: str) -> list[str]:
    r"""Lines of a text without their ends, ``\n`` or ``\r\n``; a final line end begins no further line."""
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]


def read_json_lines(path: Path, skip_broken: bool = False) -> Iterator[Any]:
    """Values of a JSON-lines file in order, without blank lines; empty if the file does not exist.

    ``skip_broken`` leaves out lines that are not JSON, as a killed writer leaves one. Otherwise such a line raises
    :class:`UserError` naming the file and the line.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                if not skip_broken:
                    raise UserError(f"{path}, line {number}: not JSON ({error}); one value per line") from error


def json_line(value: Any) -> str:
    r"""One line with its end. Characters that UTF-8 cannot encode (bytes of a file name) are escaped: ``\udcff``."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def json_lines(values: Iterable[Any]) -> str:
    """Text of a JSON-lines file."""
    return "".join(map(json_line, values))


def swap_in(fresh: Path, folder: Path) -> None:
    """Put the finished folder ``fresh`` in the place of ``folder``, whose files are removed.

    If the process is killed in between, :func:`recover` restores the old folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover(folder)
    if not folder.exists():
        fresh.replace(folder)
        return
    # rename(2) replaces an empty folder only; without an exchange in one call there is a moment without either folder
    old = fresh
    if not _exchange(fresh, folder):
        old = replaced_folder(folder)
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Restore a folder whose process was killed while it was replaced."""
    old = replaced_folder(folder)
    if old.is_dir() and not folder.exists():
        old.replace(folder)


def replaced_folder(folder: Path) -> Path:
    """Name of a folder while it is replaced, on a file system that cannot exchange two folders."""
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; false where that is not possible."""
    # Python has no renameat2 with RENAME_EXCHANGE (Linux 3.15, man 2 rename).
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
