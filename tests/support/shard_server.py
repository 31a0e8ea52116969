"""A local HTTP server of a folder that can fail on request."""

from __future__ import annotations

import functools
import http.server
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.loopback import running


class ShardServer(http.server.ThreadingHTTPServer):
    """Serves files and records their names; ``failures`` requests (of those with ``only`` in the name) get a 503."""

    daemon_threads = True
    asked: list[str]
    failures: int = 0
    only: str = ""

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: ShardServer

    def do_GET(self) -> None:  # noqa: N802
        """Fail, or send the file."""
        self.server.asked.append(self.path)
        if self.server.failures and self.server.only in self.path:
            self.server.failures -= 1
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test records what it needs."""


@contextmanager
def serve(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder on a free port until the block ends."""
    server = ShardServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    server.asked = []
    with running(server):
        yield server
