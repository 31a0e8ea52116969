"""A Hugging Face Hub on this machine that serves models and data sets, and takes uploads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_imitation import Imitation, _handler
from tests.support.loopback import running

COMMIT = "0" * 40
_API = re.compile(
    r"/api/(?:datasets|models)/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?"
)
_FILE = re.compile(r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
Content = bytes | Path


class HubServer(ThreadingHTTPServer):
    """Serves ``repos`` (id -> path -> content) at every revision, ``files`` (plain addresses), and what was uploaded.

    ``failures`` are statuses that the next requests of an address (without query) get, 0 for a cut connection.
    ``uploads`` is the state of :mod:`tests.support.hub_imitation`: an uploaded repository can be read again at once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.uploads = Imitation()
        self.repos: dict[str, dict[str, Content]] = {}
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[int]] = {}
        super().__init__(("127.0.0.1", 0), _server_handler(self))
        self.uploads.url = self.address

    @property
    def address(self) -> str:
        """The server's address without a slash at its end."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def find(self, repo: str) -> dict[str, Content] | None:
        """Files of a repository, or ``None``."""
        uploaded = self.uploads.files.get(repo)
        served = self.repos.get(repo)
        return None if uploaded is None and served is None else {**(served or {}), **(uploaded or {})}

    def serve_folder(self, repo: str, folder: Path) -> None:
        """Make every file below ``folder`` a file of the repository."""
        self.repos[repo] = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A running server."""
    server = HubServer()
    with running(server):
        yield server


def _read(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _tree(files: dict[str, Content], below: str, recursive: bool) -> list[dict[str, Any]]:
    """Entries of a folder as the Hub lists them: files with size and id, folders without."""
    entries: dict[str, dict[str, Any]] = {}
    prefix = f"{below}/" if below else ""
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": COMMIT, "size": 0}
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "path": path, "size": _size(content), "oid": _oid(path, content)}
    return list(entries.values())


def _oid(path: str, content: Content) -> str:
    """An id that changes with the content: git's blob id, which pinned files are checked against."""
    if _size(content) < 10**7:
        data = _read(content)
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return hashlib.sha1(f"{path} {_size(content)}".encode(), usedforsecurity=False).hexdigest()


def _commit(revision: str) -> str:
    """The commit of a revision: itself, where it is one."""
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT


def _server_handler(hub: HubServer) -> type[Any]:
    uploading: Any = _handler(hub.uploads)

    class Handler(uploading):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            address = urlsplit(unquote(self.path))
            statuses = hub.failures.get(address.path)
            if statuses and (status := statuses.pop(0)) != 200:
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                self.close_connection = True
                return
            if address.path.startswith("/api/whoami"):
                super().do_GET()
            elif (found := _API.fullmatch(address.path)) is not None:
                self.describe(found, parse_qs(address.query))
            elif (found := _FILE.fullmatch(address.path)) is not None:
                files = hub.find(found["repo"])
                self.revision = found["revision"]
                self.send_content(None if files is None else files.get(found["path"]), found["path"], files is None)
            else:
                self.send_content(hub.files.get(unquote(self.path)), address.path, False)

        def do_POST(self) -> None:
            found = _API.fullmatch(urlsplit(unquote(self.path)).path)
            if found is None or found["what"] != "paths-info":
                super().do_POST()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            files = hub.find(found["repo"]) or {}
            self.answer(200, [entry for entry in _tree(files, "", True) if entry["path"] in asked])

        def describe(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
            files = hub.find(found["repo"])
            if files is None:
                self.fail("RepoNotFound")
            elif found["what"] == "tree":
                _, _, below = found["rest"].partition("/")
                entries = _tree(files, below, query.get("recursive", ["false"])[0].lower() == "true")
                if below and not entries:
                    self.fail("EntryNotFound")
                else:
                    self.answer(200, entries)
            else:
                private = hub.uploads.private.get(found["repo"], False)
                commit = _commit((found["rest"] or "main").split("/")[0])
                self.answer(200, {"id": found["repo"], "private": private, "sha": commit, "tags": [], "siblings": [
                    {"rfilename": path} for path in files]})  # fmt: skip

        def send_content(self, content: Content | None, path: str, no_repo: bool) -> None:
            if content is None:
                self.fail("RepoNotFound" if no_repo else "EntryNotFound")
                return
            data = _read(content)
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{_oid(path, content)}"')
            self.send_header("X-Repo-Commit", _commit(getattr(self, "revision", "main")))
            self.send_header("Content-Type", "application/octet-stream")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[start:])

        def fail(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, code: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

    return Handler
