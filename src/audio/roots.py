"""Which files a data set's rows may name: a path in a row is followed inside its data set's folder only.

A data set that comes from somewhere else may name any file of this machine in its audio column; decoded, copied into
a raw set and published, it would leave the machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from src.audio.errors import AudioError

VARIABLE = "ALARM_AUDIO_ROOTS"
"""Further folders, separated as in PATH."""


def audio_roots(*folders: Path | None) -> tuple[Path, ...]:
    """The folders themselves, and those that the user allows by :data:`VARIABLE`."""
    own = [folder for folder in folders if folder is not None]
    named = [Path(each) for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
    return tuple(each.expanduser().resolve() for each in [*own, *named])


def downloads() -> Path:
    """Where the Hugging Face libraries unpack what they download."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets")


def hub_cache() -> Path:
    """Where the Hugging Face libraries keep files of repositories."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def inside(path: str, roots: Sequence[Path]) -> Path:
    """The file of a row, if it lies in one of the ``roots`` (links resolved); a relative path is looked for in them.

    Raises :class:`AudioError` (``missing_audio``) for any other path, and for an address.
    """
    if "://" in path:
        raise AudioError(
            f"audio cell with the address {path!r}: rows are not downloaded; store the bytes", "missing_audio"
        )
    for root in roots:
        found = (root / path).resolve()
        if found.is_relative_to(root) and (Path(path).is_absolute() or found.exists()):
            return found
    shown = ", ".join(map(str, roots)) or "no folder"
    raise AudioError(
        f"audio cell with the path {path}, which is not inside the data set ({shown}): it is not opened; store the "
        f"bytes in the data set, or allow its folder by {VARIABLE}=FOLDER",
        "missing_audio",
    )
