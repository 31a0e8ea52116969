"""HTTP connections with bounds on the time and size of a request's head, and on how long a client may not read.

uvicorn has neither (https://github.com/Kludex/uvicorn/issues/157): a connection without a complete head, and one
whose client has stopped reading, stay open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
"""Time for the head of a request to arrive."""
HEAD_BYTES = 1 << 16
STALL_SECONDS = 20.0
"""Time for which a client may take nothing of an answer that waits for it. The request is then aborted."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with these bounds; overrides callbacks of asyncio and of its parser (uvicorn 0.54)."""

    head_seconds, head_bytes, stall_seconds = HEAD_SECONDS, HEAD_BYTES, STALL_SECONDS
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = True
    _taken = 0

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        # from here on, and not from its first byte: uvicorn's keep-alive timer only starts behind an answer
        self._deadline = self.loop.call_later(self.head_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        if self._in_head:
            self._taken += len(data)
        super().data_received(data)
        # behind the call, which ends the head; a body in the same piece is not counted then
        if self._in_head and self._taken > self.head_bytes and not self.transport.is_closing():
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._taken = True, 0
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._close)

    def on_headers_complete(self) -> None:
        """The head of a request is complete."""
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """More is waiting to be sent than fits the buffers."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
