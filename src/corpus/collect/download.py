"""Fetching upstream files: resumable, checked against size and MD5, several at a time."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.corpus.recipe import Remote

_log = get_logger(__name__)
_CHUNK = 1 << 20
_TRIES = 5
_TIMEOUT = (20, 120)
"""Seconds to connect, and without a byte."""
PARTIAL = ".partial"


def fetch_all(remotes: Sequence[Remote], folder: Path, at_once: int = 3) -> list[Path]:
    """Fetch what is not there yet; returns the paths. Raises :class:`UserError` for the first that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, min(at_once, len(remotes)))) as pool:
        return list(pool.map(lambda remote: fetch(remote, folder / remote.name), remotes))


def fetch(remote: Remote, path: Path) -> Path:
    """Fetch one file to ``path``; a part that an earlier try left is continued."""
    if path.is_file():
        return path
    partial = path.with_name(path.name + PARTIAL)
    if "drive.google.com" in remote.url:
        _from_drive(remote, partial)
    else:
        _from_web(remote, partial)
    _check_md5(remote, partial)
    partial.replace(path)
    return path


def remote_size(url: str) -> int | None:
    """Bytes that the server announces; ``None`` if it does not say, or cannot be reached."""
    import requests

    if "drive.google.com" in url:
        return None
    try:
        answer = requests.head(url, allow_redirects=True, timeout=_TIMEOUT)
        return int(answer.headers["Content-Length"]) if answer.ok else None
    except (requests.RequestException, KeyError, ValueError):
        return None


def _from_web(remote: Remote, partial: Path) -> None:
    import requests

    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(min(2**attempt, 30))
            _log.warning("%s: %s; trying again from %d bytes", remote.name, reason, _size(partial))
        try:
            if _continue(remote.url, partial):
                return
            reason = "the connection ended early"
        except requests.RequestException as error:
            answer = getattr(error, "response", None)
            reason = str(error)
            if answer is not None and answer.status_code in (400, 401, 403, 404, 410):
                raise UserError(f"{remote.name}: {_refusal(answer.status_code, remote.url)}") from error
    raise UserError(
        f"{remote.name}: {remote.url} could not be fetched in {_TRIES} tries ({reason}); start again to go on, "
        "or fetch it otherwise and name its folder with --from-dir"
    )


def _refusal(status: int, url: str) -> str:
    hint = "the address may have moved" if status in (404, 410) else "the server may want a login or a permission"
    return f"{url} answers {status}; {hint}. Fetch it by hand and name its folder with --from-dir"


def _continue(url: str, partial: Path) -> bool:
    """Ask for the rest of the file and write it; whether all announced bytes are there."""
    import requests

    have = _size(partial)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if have and answer.status_code == 416:
            return _total(answer) == have or _start_anew(partial)
        answer.raise_for_status()
        mode = "ab" if answer.status_code == 206 else "wb"
        length = answer.headers.get("Content-Length")
        expected = None if length is None else int(length) + (have if mode == "ab" else 0)
        with partial.open(mode) as file, _bar(partial.name, expected, have if mode == "ab" else 0) as bar:
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return expected is None or _size(partial) == expected


def _total(answer: Any) -> int | None:
    """The whole size that a refused range names (``bytes */SIZE``)."""
    last = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(last) if last.isdigit() else None


def _start_anew(partial: Path) -> bool:
    partial.unlink()
    return False


def _bar(name: str, total: int | None, start: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc=name.removesuffix(PARTIAL), total=total, initial=start, unit="B", unit_scale=True, leave=False)


def _from_drive(remote: Remote, partial: Path) -> None:
    try:
        import gdown
    except ImportError as error:
        raise UserError(
            f"{remote.name} lies on Google Drive: pip install gdown, or fetch {remote.url} by hand and name its "
            "folder with --from-dir"
        ) from error
    try:
        if "/folders/" not in remote.url:
            gdown.download(remote.url, str(partial), resume=True)
        else:
            folder = partial.with_name(partial.name + ".folder")
            gdown.download_folder(remote.url, output=str(folder), resume=True)
            found = next(iter(sorted(folder.rglob(remote.name))), None)
            if found is not None:
                found.replace(partial)
                shutil.rmtree(folder)
    except Exception as error:  # the library raises its own, requests' and plain exceptions
        raise UserError(f"{remote.name}: Google Drive refuses ({error}); fetch {remote.url} by hand") from error
    if not partial.is_file():
        raise UserError(f"{remote.name} was not found at {remote.url}; fetch it by hand and use --from-dir")


def _check_md5(remote: Remote, path: Path) -> None:
    if not remote.md5:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != remote.md5:
        path.unlink()
        raise UserError(f"{remote.name}: MD5 {found}, expected {remote.md5}; the file was removed, start again")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
