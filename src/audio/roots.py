"""Which files a data set's rows may name: a path in a row is followed inside its data set's folder only.

A data set that comes from somewhere else may name any file of this machine in its audio column; decoded, copied into
a raw set and published, it would leave the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.audio.errors import AudioError

VARIABLE = "ALARM_AUDIO_ROOTS"
"""Further folders, separated as in PATH."""


def audio_roots(*folders: Path | None) -> tuple[Path, ...]:
    """The folders themselves, and those that the user allows by :data:`VARIABLE`."""
    own = [folder for folder in folders if folder is not None]
    named = [Path(each) for each in os.environ.get(VARIABLE, "").split(os.pathsep) if each]
    return tuple(each.expanduser().resolve() for each in [*own, *named])


def roots_of(data: Any) -> tuple[Path, ...]:
    """Folders that rows of ``data``, an opened ``datasets.Dataset``, may name files in.

    The folder of its Arrow files with what lies beside and below it, and for a set of the Hub the caches into which
    the libraries download.
    """
    files = [Path(each["filename"]).resolve() for each in getattr(data, "cache_files", ())]
    folders = [file.parent for file in files]
    saved = [folder.parent if (folder.parent / "dataset_dict.json").is_file() else folder for folder in folders]
    caches = _caches()
    fetched = caches if any(file.is_relative_to(cache) for file in files for cache in caches) else ()
    return audio_roots(*dict.fromkeys(saved), *fetched)


class StoredCell(dict[str, Any]):
    """An undecoded audio cell of a data set, whose path is followed inside ``roots`` only."""

    def __init__(self, cell: Mapping[str, Any], roots: Sequence[Path]) -> None:
        super().__init__(cell)
        self.roots = tuple(roots)


def stored_cell(cell: Any, roots: Sequence[Path]) -> Any:
    """The cell with its roots; what is no mapping (an array, nothing) as it is."""
    return StoredCell(cell, roots) if isinstance(cell, Mapping) else cell


def _caches() -> tuple[Path, ...]:
    """Where the Hugging Face libraries keep data sets and files of repositories."""
    from datasets import config
    from huggingface_hub import constants

    return tuple(Path(each).expanduser().resolve() for each in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE))


def inside(path: str, roots: Sequence[Path]) -> Path:
    """The file of a row, if it lies in one of the ``roots`` (links resolved); a relative path is looked for in them.

    Raises :class:`AudioError` (``missing_audio``) for any other path, and for an address.
    """
    if "://" in path:
        raise AudioError(
            f"audio cell with the address {path!r}: rows are not downloaded; store the bytes", "missing_audio"
        )
    for root in roots:
        try:
            found = (root / path).resolve()
            if found.is_relative_to(root) and (Path(path).is_absolute() or found.exists()):
                return found
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, links in a circle
            continue
    shown = ", ".join(map(str, roots)) or "no folder"
    raise AudioError(
        f"audio cell with the path {path}, which is not inside the data set ({shown}): it is not opened; store the "
        f"bytes in the data set, or allow its folder by {VARIABLE}=FOLDER",
        "missing_audio",
    )
