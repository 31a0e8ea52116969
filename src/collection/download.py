"""Downloads that continue where they stopped, and start again by themselves after network failures."""

from __future__ import annotations

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from src.collection.sources import HubFile, Source, WebFile
from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
T = TypeVar("T")
BLOCK = 1 << 20
_DENIED, _AGAIN = (401, 403), (408, 425, 429)


@dataclass(frozen=True)
class Patience:
    """How often a failed download is tried again, and the waits between in seconds (doubled up to the longest)."""

    attempts: int = 30
    first_wait: float = 5.0
    longest_wait: float = 1200.0
    timeout: float = 60.0


def fetch(source: Source, folder: Path, patience: Patience) -> Path:
    """The file in ``folder``; for a pattern of a Hub data set, the folder that holds its files.

    Raises :class:`UserError` when it does not exist, needs a login, has another content than expected, or the network
    stays away for all attempts.
    """
    work = (lambda: _web(source, folder, patience)) if isinstance(source, WebFile) else (lambda: _hub(source, folder))
    path = retrying(work, source.name, patience)
    if source.blob and path.is_file():
        _check_blob(path, source.blob)
    return path


def retrying(work: Callable[[], T], what: str, patience: Patience) -> T:
    """``work()``, again after each network failure. Other errors pass through."""
    wait = patience.first_wait
    for attempt in range(1, patience.attempts + 1):
        try:
            return work()
        except Exception as error:
            if not is_network_failure(error):
                raise
            if attempt == patience.attempts:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"{what}: {attempt} attempts failed, the last with: {reason}. Run it again to go on."
                ) from error
            log.warning("%s: %s; attempt %d, trying again in %.0f s", what, _short(error), attempt, wait)
            time.sleep(wait)
            wait = min(2 * wait, patience.longest_wait)
    raise AssertionError("unreachable")


def is_network_failure(error: BaseException) -> bool:
    """Whether trying again can help: broken or refused connections, timeouts, busy or failing servers."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in _AGAIN
    if isinstance(error, (ConnectionError, TimeoutError, urllib.error.URLError)):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names
        & {"TransportError", "ConnectTimeout", "IncompleteSnapshotError", "LocalEntryNotFoundError", "IncompleteRead"}
    )


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _web(source: WebFile, folder: Path, patience: Patience) -> Path:
    """Into ``NAME.part`` with a range request for what is missing; renamed when it is whole."""
    target = folder / source.name
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=patience.timeout) as reply:
            _refuse_page(source, reply.headers.get_content_type())
            goes_on = reply.status == 206
            expected = int(reply.headers.get("Content-Length") or -1)
            with part.open("ab" if goes_on else "wb") as file:
                received = sum(file.write(block) for block in iter(lambda: reply.read(BLOCK), b""))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part was whole, or belongs to another file
            part.unlink(missing_ok=True)
            raise ConnectionError("the partial file does not fit; starting over") from error
        if error.code in _DENIED or error.code == 404:
            raise UserError(_by_hand(source, f"the server answers {error.code}")) from error
        raise
    if 0 <= expected != received:
        raise ConnectionError(f"{received} of {expected} bytes came")
    part.replace(target)
    return target


def _refuse_page(source: WebFile, kind: str) -> None:
    if kind == "text/html":
        raise UserError(
            _by_hand(source, "the server sends a web page instead of the file (too many downloads today?)")
        )


def _by_hand(source: WebFile, what: str) -> str:
    return (
        f"{source.name} cannot be downloaded: {what}. Download {source.manual or source.url} with a browser, put it "
        f"into a folder as {source.name} (or unpacked), and give that folder with --from-dir."
    )


def _hub(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        if "*" in source.path:
            snapshot_download(
                source.repo,
                repo_type="dataset",
                revision=source.revision,
                allow_patterns=source.path,
                local_dir=folder,
            )
            return folder
        return Path(
            hf_hub_download(source.repo, source.path, repo_type="dataset", revision=source.revision, local_dir=folder)
        )
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(_log_in(source)) from error
    except EntryNotFoundError as error:
        if is_network_failure(error):
            raise
        raise UserError(f"{source.repo} has no {source.path} at revision {source.revision}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in _DENIED:
            raise UserError(_log_in(source)) from error
        raise


def _log_in(source: HubFile) -> str:
    return (
        f"{source.repo} on the Hugging Face Hub is not open to you: accept its terms at "
        f"https://huggingface.co/datasets/{source.repo}, log in with `hf auth login` (or set HF_TOKEN), and run it again"
    )


def _check_blob(path: Path, blob: str) -> None:
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if not found.startswith(blob):
        path.unlink()
        raise UserError(
            f"{path.name} is not the expected edition: git blob {found[:8]}, expected {blob}. It was removed; run it "
            "again, or give --any-edition to take what is there"
        )
