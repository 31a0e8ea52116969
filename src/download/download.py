"""Downloads that continue where they stopped, are tried again after network failures, and are compared afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from src.common.errors import UserError, say_where
from src.common.files import write_json
from src.common.log import get_logger
from src.common.retry import RetryPolicy, is_network_failure, retrying, status_of
from src.download.sources import DownloadSource, DriveFolderFile, HubFile, WebFile

log = get_logger(__name__)
# some servers refuse urllib's own name with 403, for example https://github.com/openresty/openresty.org/issues/14
_AGENT = {"User-Agent": "alarm-collect"}
_BLOCK = 1 << 20
_DENIED, _GONE = (401, 403), (404, 410)
_SIZE_TIMEOUT = 20.0


def fetch(source: DownloadSource, folder: Path, policy: RetryPolicy | None = None) -> Path:
    """The file in ``folder``; for a pattern of a Hub repository, the folder that contains its files.

    A file that is there already is not fetched again; a partial one is continued.

    Raises :class:`UserError` when it does not exist, needs a login or a browser, has another content than expected,
    or the network fails in all attempts.
    """
    policy = policy or RetryPolicy()

    def once() -> Path:
        if isinstance(source, DriveFolderFile):
            return _fetch_from_drive(source, folder)
        return _fetch_web(source, folder, policy) if isinstance(source, WebFile) else _fetch_hub(source, folder)

    try:
        path = retrying(once, source.name, policy)
    except OSError as error:  # of the disk; those of the network are UserErrors by now
        say_where(error, folder)
        raise
    if source.checksum and path.is_file():
        _check_content(path, source.checksum)
    return path


def _fetch_web(source: WebFile, folder: Path, policy: RetryPolicy) -> Path:
    """Write ``NAME.part`` with a range request for what is missing; rename it when it is complete.

    ``NAME.edition`` says of which edition of the file the part is: two of them in one file would be taken for whole.
    """
    target = folder / source.name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part, edition = (target.with_name(f"{target.name}.{kind}") for kind in ("part", "edition"))
    have = part.stat().st_size if part.is_file() else 0
    headers = {**_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(source.url, headers=headers)
        with urllib.request.urlopen(request, timeout=policy.timeout) as reply:
            if reply.headers.get_content_type() == "text/html":
                what = "the server sends a web page instead of the file (too many downloads today?)"
                raise UserError(_by_hand(source, what))
            expected = int(reply.headers.get("Content-Length") or -1)
            start, announced = _edition(reply)
            # a server may answer with the whole file instead of the range (200; RFC 9110, 14.2): see "wb" below
            if reply.status == 206 and (start != have or not _is_same_edition(edition, announced)):
                part.unlink()
                raise ConnectionError("the rest is of another edition than the partial file; starting over")
            log.info("%s: %s", source.name, f"going on at byte {have}" if reply.status == 206 else "downloading")
            if reply.status != 206:
                write_json(edition, announced)
            received = 0
            with part.open("ab" if reply.status == 206 else "wb") as file:
                while block := reply.read(_BLOCK):
                    received += file.write(block)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part was complete, or belongs to another file
            part.unlink(missing_ok=True)
            raise ConnectionError("the partial file does not fit; starting over") from error
        if error.code in _DENIED + _GONE:
            raise UserError(_by_hand(source, f"the server answers {error.code}")) from error
        raise
    # read(amount) of http.client does not raise when a connection ends early:
    # https://github.com/python/cpython/issues/115997
    if 0 <= expected != received:
        raise ConnectionError(f"{received} of {expected} bytes came")
    size = part.stat().st_size
    if announced["size"] not in (None, size):  # servers may send less than what was asked for (RFC 9110, 14.2)
        raise ConnectionError(f"{size} of {announced['size']} bytes came")
    part.replace(target)
    edition.unlink(missing_ok=True)
    return target


def _edition(reply: Any) -> tuple[int | None, dict[str, Any]]:
    """First byte of a partial reply, and what tells this edition of the file from another: its size and its time.

    A tag stands in for the time where there is none; servers behind one address may have different tags.
    """
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (reply.headers.get("Content-Range") or "").strip())
    size = (found[2] if found else None) if reply.status == 206 else reply.headers.get("Content-Length")
    time = reply.headers.get("Last-Modified") or reply.headers.get("ETag")
    return int(found[1]) if found else None, {"size": int(size) if size and size.isdecimal() else None, "time": time}


def _is_same_edition(path: Path, announced: dict[str, Any]) -> bool:
    """Whether nothing in the record of a partial file contradicts what is announced now."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        return all(announced[name] in (None, before[name]) for name in announced if before[name] is not None)
    except FileNotFoundError:
        return True  # of an earlier version of this program
    except (ValueError, KeyError, TypeError):
        return False


def _by_hand(source: WebFile, what: str) -> str:
    return (
        f"{source.name} cannot be downloaded: {what}. Download {source.manual or source.url} with a browser, put it "
        f"into a folder as {source.name} (or unpacked), and give that folder with --from-dir."
    )


def _fetch_hub(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    endpoint = os.environ.get("HF_ENDPOINT")
    pinned: dict[str, Any] = {"repo_type": source.repo_type, "revision": source.revision}
    absent = f"{source.repo} has no {source.path} at revision {source.revision}"
    kind = "" if source.repo_type == "model" else f"{source.repo_type}s/"
    closed = (
        f"{source.repo} on the Hugging Face Hub does not exist or is not open to you: accept its terms at "
        f"https://huggingface.co/{kind}{source.repo}, log in with `hf auth login` (or set HF_TOKEN), and run it again"
    )
    try:
        if not source.is_pattern:
            return Path(hf_hub_download(source.repo, source.path, local_dir=folder, endpoint=endpoint, **pinned))
        # Listed first: without a listing snapshot_download returns a folder that is there, however incomplete it is.
        listed = HfApi(endpoint=endpoint).list_repo_files(source.repo, **pinned)
        wanted = list(filter_repo_objects(listed, allow_patterns=source.path))
        if not wanted:
            raise UserError(absent)
        snapshot_download(source.repo, allow_patterns=source.path, local_dir=folder, endpoint=endpoint, **pinned)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(closed) from error
    except EntryNotFoundError as error:
        if is_network_failure(error):
            raise
        raise UserError(absent) from error
    except HfHubHTTPError as error:
        if status_of(error) in _DENIED:
            raise UserError(closed) from error
        raise
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConnectionError(f"{len(missing)} of {len(wanted)} files did not come, {missing[0]} for one")
    return folder


def _fetch_from_drive(source: DriveFolderFile, folder: Path) -> Path:
    """Download the shared folder, continuing an earlier try, and keep the one file."""
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


def _check_content(path: Path, checksum: str) -> None:
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
    # builds of Python for FIPS refuse MD5 and SHA-1 otherwise
    state: Any = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":  # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        state.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return str(state.hexdigest())


def announced_size(source: DownloadSource) -> int:
    """Bytes that the server announces for a web file or chosen files of a Hub repository; 0 if it does not."""
    try:
        if isinstance(source, HubFile):
            from huggingface_hub import HfApi

            info = HfApi().dataset_info(
                source.repo, revision=source.revision, files_metadata=True, timeout=_SIZE_TIMEOUT
            )
            return sum(file.size or 0 for file in info.siblings or [] if fnmatch(file.rfilename, source.path))
        if isinstance(source, WebFile):
            request = urllib.request.Request(source.url, method="HEAD", headers=_AGENT)
            with urllib.request.urlopen(request, timeout=_SIZE_TIMEOUT) as reply:
                return int(reply.headers.get("Content-Length") or 0)
    except Exception as error:  # no network, no access: the download itself will report it, and better
        log.info("the size of %s is not known (%s)", getattr(source, "repo", source.name), type(error).__name__)
    return 0


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
