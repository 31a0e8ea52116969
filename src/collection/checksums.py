"""Checksums of files: SHA-256, MD5, and git's blob ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from src.common.errors import UserError

_BLOCK = 1 << 20


def check_file(path: Path, checksum: str) -> None:
    """Compare a file with ``sha256:…``, ``md5:…`` or ``git:…``; a file that differs is removed.

    Raises :class:`UserError` if it differs, ValueError for an unknown kind.
    """
    kind, _, expected = checksum.partition(":")
    found = digest(path, kind)
    if not expected or not found.startswith(expected.lower()):
        path.unlink()
        raise UserError(
            f"{path.name} is not the expected file: {kind} {found[: max(8, len(expected))]}, expected {expected}. It "
            "was removed; fetch it again, or skip the check if another edition is what you want"
        )


def digest(path: Path, kind: str) -> str:
    """Hexadecimal digest: ``sha256``, ``md5``, or ``git`` (SHA-1 of git's header and the content)."""
    if kind not in ("sha256", "md5", "git"):
        raise ValueError(f"unknown kind of checksum {kind!r}; known: sha256, md5, git")
    state: Any = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        state.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return str(state.hexdigest())
