"""Downloads that continue where they stopped, and start again by themselves after network failures."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from src.collection.checksums import check_file
from src.collection.drive import DriveFolderFile, fetch_from_folder
from src.collection.retry import Patience, is_network_failure, retrying, status_of
from src.collection.sources import HubFile, Source, WebFile
from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
_BLOCK = 1 << 20
_DENIED, _GONE = (401, 403), (404, 410)


def fetch(source: Source | DriveFolderFile, folder: Path, patience: Patience | None = None) -> Path:
    """The file in ``folder``; for a pattern of a Hub repository, the folder that holds its files.

    A file that is there already is not fetched again; what is there in part is continued.

    Raises :class:`UserError` when it does not exist, needs a login or a browser, has another content than expected,
    or the network stays away for all attempts.
    """
    patience = patience or Patience()
    path = retrying(lambda: _fetch_once(source, folder, patience), source.name, patience)
    if source.checksum and path.is_file():
        check_file(path, source.checksum)
    return path


def _fetch_once(source: Source | DriveFolderFile, folder: Path, patience: Patience) -> Path:
    if isinstance(source, DriveFolderFile):
        return fetch_from_folder(source, folder)
    return _web(source, folder, patience) if isinstance(source, WebFile) else _hub(source, folder)


def _web(source: WebFile, folder: Path, patience: Patience) -> Path:
    """Into ``NAME.part`` with a range request for what is missing; renamed when it is whole."""
    target = folder / source.name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "alarm-collect", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(source.url, headers=headers)
        with urllib.request.urlopen(request, timeout=patience.timeout) as reply:
            if reply.headers.get_content_type() == "text/html":
                what = "the server sends a web page instead of the file (too many downloads today?)"
                raise UserError(_by_hand(source, what))
            expected = int(reply.headers.get("Content-Length") or -1)
            log.info("%s: %s", source.name, f"going on at byte {have}" if reply.status == 206 else "downloading")
            received = 0
            with part.open("ab" if reply.status == 206 else "wb") as file:
                while block := reply.read(_BLOCK):
                    received += file.write(block)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part was whole, or belongs to another file
            part.unlink(missing_ok=True)
            raise ConnectionError("the partial file does not fit; starting over") from error
        if error.code in _DENIED + _GONE:
            raise UserError(_by_hand(source, f"the server answers {error.code}")) from error
        raise
    if 0 <= expected != received:
        raise ConnectionError(f"{received} of {expected} bytes came")
    part.replace(target)
    return target


def _by_hand(source: WebFile, what: str) -> str:
    return (
        f"{source.name} cannot be downloaded: {what}. Download {source.manual or source.url} with a browser, put it "
        f"into a folder as {source.name} (or unpacked), and give that folder with --from-dir."
    )


def _hub(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    place: dict[str, Any] = {
        "repo_type": source.repo_type,
        "revision": source.revision,
        "local_dir": folder,
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
    try:
        if source.is_pattern:
            return _hub_pattern(source, folder, place)
        return Path(hf_hub_download(source.repo, source.path, **place))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(_log_in(source)) from error
    except EntryNotFoundError as error:
        if is_network_failure(error):
            raise
        raise UserError(f"{source.repo} has no {source.path} at revision {source.revision}") from error
    except HfHubHTTPError as error:
        if status_of(error) in _DENIED:
            raise UserError(_log_in(source)) from error
        raise


def _hub_pattern(source: HubFile, folder: Path, place: dict[str, Any]) -> Path:
    """Listed first: without a listing snapshot_download returns a folder that is there, however little it holds."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi(endpoint=place["endpoint"])
    listed = api.list_repo_files(source.repo, revision=source.revision, repo_type=source.repo_type)
    wanted = list(filter_repo_objects(listed, allow_patterns=source.path))
    if not wanted:
        raise UserError(f"{source.repo} has no {source.path} at revision {source.revision}")
    snapshot_download(source.repo, allow_patterns=source.path, **place)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConnectionError(f"{len(missing)} of {len(wanted)} files did not come, {missing[0]} for one")
    return folder


def _log_in(source: HubFile) -> str:
    kind = "" if source.repo_type == "model" else f"{source.repo_type}s/"
    return (
        f"{source.repo} on the Hugging Face Hub does not exist or is not open to you: accept its terms at "
        f"https://huggingface.co/{kind}{source.repo}, log in with `hf auth login` (or set HF_TOKEN), and run it again"
    )
