"""A web server on this machine that stands for GitHub, Google Drive and the Hugging Face Hub, with their failures."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from urllib.parse import unquote, urlsplit

_FILE = re.compile(r"/(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(r"/api/(?:datasets|models)/(?P<repo>[\w.-]+/[\w.-]+)/(?P<what>revision|tree)/(?P<revision>[^/]+)")


class Loopback(ThreadingHTTPServer):
    """Serves ``files`` (path with query -> content) and ``hub`` ((repository, revision) -> path -> content).

    ``trouble`` has, by path, what happens to the next requests, one after another: a status such as ``503``, ``cut``
    (half of the rest, then silence), ``html`` (a web page instead). ``asked`` lists requests as ``GET path range``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.hub: dict[tuple[str, str], dict[str, bytes]] = {}
        self.trouble: dict[str, list[str]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """The server's address without a slash at its end."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running(server: BaseServer) -> Iterator[None]:
    """Answer requests in a thread until the block ends."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def loopback() -> Iterator[Loopback]:
    """A running server, shut down at the end."""
    server = Loopback()
    with running(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: Loopback

    def log_message(self, format: str, *args: object) -> None:
        """Tests read ``asked`` instead."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path)
        plain = urlsplit(path).path
        self.server.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        trouble = self.server.trouble.get(path) or self.server.trouble.get(plain)
        what = trouble.pop(0) if trouble and body else ""
        if what.isdigit():
            self._send(int(what), b"trouble", {"Content-Type": "text/plain"}, body)
        elif what == "html":
            self._send(200, b"<html>Too many downloads</html>", {"Content-Type": "text/html; charset=utf-8"}, body)
        elif (found := _API.fullmatch(plain)) is not None:
            self._send_listing(found["repo"], found["revision"], found["what"], body)
        elif (found := _FILE.fullmatch(plain)) is not None:
            files = self.server.hub.get((found["repo"], found["revision"]))
            self._send_file(None if files is None else files.get(found["path"]), body, what, found["revision"], files)
        else:
            self._send_file(self.server.files.get(path), body, what)

    def _send_listing(self, repo: str, revision: str, what: str, body: bool) -> None:
        files = self.server.hub.get((repo, revision))
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        tree = [{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files.items()]
        siblings = [{"rfilename": path} for path in files]
        found: object = tree if what == "tree" else {"id": repo, "sha": revision, "siblings": siblings}
        return self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)

    def _send_file(
        self,
        data: bytes | None,
        body: bool,
        what: str,
        revision: str | None = None,
        files: dict[str, bytes] | None = None,
    ) -> None:
        if data is None:
            code = "RepoNotFound" if revision and files is None else "EntryNotFound"
            return self._send(404, b"", {"X-Error-Code": code}, body)
        headers = {"Content-Type": "application/octet-stream"}
        if revision is not None:
            headers |= {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": revision}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start and start >= len(data):
            return self._send(416, b"", headers, body)
        headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return self._send(206 if start else 200, data[start:], headers, body, cut=what == "cut")

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = True


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
