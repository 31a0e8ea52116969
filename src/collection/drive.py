"""Files in shared folders of Google Drive, whose listing only a browser or gdown can read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from src.common.errors import UserError


@dataclass(frozen=True)
class DriveFolderFile:
    """The file ``name`` somewhere in the shared folder behind ``url``."""

    url: str
    name: str
    checksum: str | None = None


def fetch_from_folder(source: DriveFolderFile, folder: Path) -> Path:
    """The file in ``folder``; what an earlier try left is continued.

    Raises :class:`UserError` if gdown is missing, the folder is closed or does not hold the file.
    """
    target = folder / source.name
    if target.is_file():
        return target
    by_hand = f"fetch {source.url} with a browser and name its folder with --from-dir"
    try:
        import gdown
    except ImportError as error:
        raise UserError(f"{source.name} lies in a folder of Google Drive: pip install gdown, or {by_hand}") from error
    listing = folder / f"{source.name}.folder"
    listing.mkdir(parents=True, exist_ok=True)
    try:
        gdown.download_folder(source.url, output=str(listing), resume=True, quiet=True)
    except Exception as error:  # the library raises its own, requests' and plain exceptions
        raise UserError(f"{source.name}: Google Drive refuses ({error}); {by_hand}") from error
    found = next(iter(sorted(listing.rglob(source.name))), None)
    if found is None:
        raise UserError(f"{source.name} is not in {source.url}; {by_hand}")
    found.replace(target)
    shutil.rmtree(listing)
    return target
