"""The part of the Hugging Face Hub that an upload needs, on a port of this machine."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.loopback import running


@dataclass
class Imitation:
    """Repositories that were sent, with their visibility and their files."""

    url: str = ""
    user: str | None = "me"
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refuse_commits: bool = False


@contextmanager
def hub_imitation() -> Iterator[Imitation]:
    """A running server."""
    state = Imitation()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    with running(server):
        yield state


def _handler(state: Imitation) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/api/whoami"):
                self.answer(*((200, {"name": state.user}) if state.user else (401, {"error": "not logged in"})))
                return
            match = re.match(r"/api/(?:datasets|models)/([^/]+/[^/?]+)(/tree/|/revision/|$|\?)", self.path)
            if match is None or match[1] not in state.private:
                self.answer(404, {"error": "Repository Not Found"})
            elif match[2] == "/tree/":
                self.answer(
                    200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in state.files[match[1]]]
                )
            else:
                self.answer(200, {"id": match[1], "private": state.private[match[1]], "sha": "0" * 40, "siblings": [
                    {"rfilename": name} for name in state.files[match[1]]]})  # fmt: skip

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                told = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self.answer(200, {"files": told})
            elif match := re.match(r"/api/(?:datasets|models)/([^/]+/[^/]+)/commit/", self.path):
                self.commit(match[1], body)
            else:
                self.answer(200, {})

        def create(self, asked: dict[str, Any]) -> None:
            repo = f"{asked.get('organization') or state.user}/{asked['name']}"
            known = repo in state.private
            if not known:
                state.private[repo] = bool(asked.get("private") or asked.get("visibility") == "private")
                state.files[repo] = {}
            self.answer(409 if known else 200, {"url": f"{state.url}/datasets/{repo}", "error": "exists"})

        def commit(self, repo: str, body: bytes) -> None:
            if state.refuse_commits:
                self.answer(403, {"error": "quota exceeded"})
                return
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    state.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"].startswith("deleted"):
                    state.files[repo].pop(value["path"], None)
            self.answer(200, {"commitUrl": f"{state.url}/{repo}/commit/1", "commitOid": "1" * 40, "success": True})

        def answer(self, code: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler
