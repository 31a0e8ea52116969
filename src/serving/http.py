"""What stands before the routes: the key, and bodies that are bounded in size and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from src.serving.config import MIB, Limits
from src.serving.errors import ApiError

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
OPEN_PATHS = {"/health"}


class KeyGuard:
    """ASGI middleware: nothing but ``/health`` answers without the key.

    The key comes as ``Authorization: Bearer KEY``, or as the password of HTTP Basic, which browsers ask for.
    """

    def __init__(self, app: App, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass on what shows the key."""
        kind = scope["type"]
        if self._key is None or kind == "lifespan" or scope["path"] in OPEN_PATHS or self._shows_key(scope):
            await self._app(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = ApiError(401, "no valid key; send it as Authorization: Bearer KEY", "invalid_api_key")
            refusal = JSONResponse(
                error.body(), 401, {"WWW-Authenticate": 'Basic realm="ALARM"', "Connection": "close"}
            )
            refusal.headers.append("WWW-Authenticate", "Bearer")  # of two in one line Chromium sees the first alone
            await refusal(scope, receive, send)

    def _shows_key(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, shown = given.partition(b" ")
        if scheme.lower() == b"basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(shown.strip(), self._key or b"")


class Bodies:
    """Reads bodies; all that are in memory at a time are bounded together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending = 0

    async def read(self, request: Request) -> bytes:
        """The body of a request; give it back by :meth:`release`.

        Raises :class:`ApiError`: 408 if it does not arrive in time, 413 if it is too large, 415 if it is no JSON,
        429 if too much is being read.
        """
        most = self._limits.body_bytes
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a web page elsewhere could send any other kind unasked
            raise ApiError(415, f"content-type is {kind[:60]!r}, expected application/json", "bad_content_type")
        claimed = request.headers.get("content-length", "0")
        if not claimed.isdecimal() or len(claimed) > 18:
            raise ApiError(400, "content-length is no number", "bad_content_length")
        if int(claimed) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    self._take(len(chunk))
                    body += chunk
                    if len(body) > most:
                        raise _too_large(most)
        except TimeoutError:
            self.release(len(body))
            reason = f"the body did not arrive within {self._limits.body_seconds:g} s ({len(body)} bytes did)"
            raise ApiError(408, reason, "body_timeout", headers={"Connection": "close"}) from None
        except BaseException:
            self.release(len(body))
            raise
        return bytes(body)

    def release(self, size: int) -> None:
        """A body of this size is no longer held."""
        self._pending -= size

    def _take(self, size: int) -> None:
        if self._pending + size > self._limits.pending_mib * MIB:
            raise ApiError(
                429, "too much is being read; try again", "too_many_requests", headers={"Retry-After": "1"}
            )
        self._pending += size


def _too_large(most: int) -> ApiError:
    reason = f"the body is larger than {most / MIB:g} MiB"
    return ApiError(413, reason, "body_too_large", headers={"Connection": "close"})
