"""Room on the disk, looked at before the first byte is fetched."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from src.collection.sources import HubFile, WebFile
from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
_TIMEOUT = 20.0


def announced_size(source: Any) -> int:
    """Bytes that the server announces for a web file or chosen files of a Hub repository; 0 if it does not."""
    if isinstance(source, HubFile):
        return _hub_size(source)
    if not isinstance(source, WebFile):
        return 0
    request = urllib.request.Request(source.url, method="HEAD", headers={"User-Agent": "alarm-collect"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            return int(reply.headers.get("Content-Length") or 0)
    except (urllib.error.URLError, OSError, ValueError) as error:  # the download itself will say so, and better
        log.info("the size of %s is not known (%s)", source.name, type(error).__name__)
        return 0


def _hub_size(source: HubFile) -> int:
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    try:
        about = HfApi().dataset_info(source.repo, revision=source.revision, files_metadata=True, timeout=_TIMEOUT)
    except Exception as error:  # no network, no access: the download itself will say so, and better
        log.info("the size of %s is not known (%s)", source.repo, type(error).__name__)
        return 0
    chosen = [file for file in about.siblings or [] if fnmatch(file.rfilename, source.path)]
    return sum(file.size or 0 for file in chosen)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises :class:`UserError` if ``needed`` bytes are more than the disk of ``folder`` has free."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what} needs about {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free; make room, set "
            "ALARM_DATA_ROOT to another disk, or pass --ignore-space"
        )
