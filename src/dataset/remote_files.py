"""Files behind addresses: read whole, or kept on this machine's disk within a bound, by fsspec.

fsspec is a dependency of ``datasets`` and reads local paths, HTTP and the Hub; an object store needs its own package
(``s3fs``, ``gcsfs``), whose credentials come from its usual environment variables and files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from src.common.errors import UserError, machine_fault, one_line
from src.common.log import get_logger
from src.common.retry import RetryPolicy, retrying, status_of

log = get_logger(__name__)
T = TypeVar("T")
RETRIES = RetryPolicy(attempts=6, first_wait=1.0, longest_wait=30.0, timeout=60.0)
_DENIED = (401, 403)
_PART_SECONDS = 3600.0
"""A partial file that nobody has written to for so long is removed."""


class BrokenFileError(Exception):
    """A file with another content than its index says."""


def is_local(address: str) -> bool:
    """Whether an address is a path of this machine."""
    return "://" not in address


def read_remote(address: str, purpose: str) -> bytes:
    """Content of a small file. Raises :class:`UserError` naming it and its ``purpose`` if it cannot be read."""

    def read() -> bytes:
        if is_local(address):
            return Path(address).read_bytes()
        system, path = _open(address)
        return bytes(system.cat_file(path))

    return _with_retries(read, address, purpose)


def _open(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if address.startswith(("http://", "https://")):
        import aiohttp

        # Without a bound on the whole transfer, which aiohttp sets to 5 minutes: a shard on a slow line takes longer.
        waits = aiohttp.ClientTimeout(total=None, sock_connect=RETRIES.timeout, sock_read=RETRIES.timeout)
        options["client_kwargs"] = {"timeout": waits}
    return url_to_fs(address, **options)


def _with_retries(work: Callable[[], T], address: str, purpose: str) -> T:
    def once() -> T:
        try:
            return work()
        except FileNotFoundError as error:
            raise UserError(f"{address} does not exist ({purpose}); check the address") from error
        except (PermissionError, ImportError, ValueError) as error:  # an unknown protocol is a ValueError
            raise UserError(f"{address} cannot be read ({one_line(error)}; {purpose})") from error
        except UserError:
            raise
        except Exception as error:
            if _status(error) in _DENIED:
                raise UserError(
                    f"{address} is not open to you ({one_line(error)}); check your credentials"
                ) from error
            if is_local(address) or machine_fault(error) == "disk":
                raise
            raise ConnectionError(one_line(error)) from error

    return retrying(once, address, RETRIES)


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)  # aiohttp's
    return status if isinstance(status, int) else status_of(error)


def local_copy(address: str, folder: Path) -> Path:
    """A path as it is, or a file in ``folder`` with the content of an address.

    Raises :class:`UserError` naming it if it cannot be read.
    """
    if is_local(address):
        if not Path(address).is_file():
            raise UserError(f"{address} does not exist; check the path")
        return Path(address)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name_of(address)

    def get() -> None:
        system, path = _open(address)
        system.get_file(path, str(target))

    _with_retries(get, address, "shard of a shard set")
    return target


def _name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class FileCache:
    """Copies of remote files in a folder that processes of a machine share, the oldest ones removed beyond a size."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def fetch(self, address: str, size: int, sha256: str) -> Path:
        """A local file with the content of ``address``; a local path is returned as it is.

        Raises :class:`UserError` naming the file if it cannot be fetched, or is another one than expected, in all
        attempts.
        """
        if is_local(address):
            return _local(address, size)
        target = self.folder / f"{_name_of(f'{address} {sha256}')}.shard"
        if _touch(target):
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f"{target.name}.lock"):  # other processes wait, and find the file
            if _touch(target):
                return target
            self._make_room(size)
            # host and process: where several machines share the folder, a lock may hold on one of them only
            part = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.part")
            try:
                _with_retries(lambda: _download(address, part, size, sha256), address, "shard of a shard set")
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return target

    def _make_room(self, needed: int) -> None:
        with _locked(self.folder / "room.lock"):
            for path in self.folder.glob("*.part"):  # of killed processes
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _PART_SECONDS:
                        path.unlink()
            files = []
            for path in self.folder.glob("*.shard"):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    files.append((state.st_mtime, state.st_size, path))
            total = sum(size for _, size, _ in files) + needed
            for _, size, path in sorted(files):
                if total <= self.most_bytes:
                    return
                # A process that is reading it keeps its open file.
                path.unlink(missing_ok=True)
                total -= size


def _local(address: str, size: int) -> Path:
    path = Path(address)
    try:
        found = path.stat().st_size
    except OSError as error:
        raise UserError(f"{address} cannot be read ({one_line(error)}); check the shard set") from error
    if found != size:
        raise UserError(f"{address} has {found} bytes, its index says {size}: write or copy the shard again")
    return path


def _download(address: str, part: Path, size: int, sha256: str) -> None:
    system, path = _open(address)
    system.get_file(path, str(part))
    found = part.stat().st_size
    if found != size:
        raise BrokenFileError(f"{found} bytes came, the index says {size}")
    if sha256_of(part) != sha256:
        raise BrokenFileError("its content is another one than the index says (sha256)")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(path: Path) -> bool:
    """Mark a file as used now; false if it does not exist."""
    # the time of change, since many file systems are mounted without that of access (noatime)
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # a file system without locks: a file may then be fetched twice
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
