"""uvicorn, stopped as soon as the last answer is finished."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from src.serving.config import ServeConfig
from src.serving.service import Service

GRACE_SECONDS = 0.2
"""For the last bytes of the last answer."""


class Server(uvicorn.Server):
    """Runs an application of :func:`create_app`.

    When it is told to stop, it takes no more connections, and waits for running answers as long as
    ``shutdown_seconds`` say. Connections without an answer, such as those a page holds open, are not waited for.
    """

    def __init__(self, app: Any, config: ServeConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=config.shutdown_seconds,
                limit_concurrency=4 * config.limits.concurrent + 256,
            )
        )
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; called by uvicorn."""
        hanging_up = asyncio.ensure_future(self._hang_up_when_idle())
        await super().shutdown(sockets)
        hanging_up.cancel()

    async def _hang_up_when_idle(self) -> None:
        service: Service = self._app.state.service
        while service.admitted:
            await asyncio.sleep(0.05)
        await asyncio.sleep(GRACE_SECONDS)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.close()  # what is written is still sent
