"""HTTP routes of OpenAI's chat completions over a :class:`Service`, and the uvicorn server."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from src.serving.clip_decoder import ApiError
from src.serving.config import ServeConfig
from src.serving.gate import Gate, cancel_on_disconnect
from src.serving.protocol import BoundedProtocol
from src.serving.schema import ChatRequest, parse_chat
from src.serving.service import Delta, Finished, PreparedChat, Service

CLIENT_CLOSED = 499
"""Status counted for requests whose client disconnected (as nginx logs it)."""
GRACE_SECONDS = 0.2
"""Time to send the last bytes of the last answer at shutdown."""


def create_app(open_service: Callable[[], Awaitable[Service]], config: ServeConfig) -> FastAPI:
    """Create the application; ``open_service`` is awaited at startup, and the service is closed at shutdown."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await open_service()
        yield
        await app.state.service.close()

    app = FastAPI(title="ALARM", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, config=config.gate)
    app.add_exception_handler(ApiError, _error_response)
    app.add_exception_handler(HTTPException, _error_response)
    app.add_exception_handler(Exception, _internal_error)
    routes = _Routes(app)
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models/{name:path}", routes.model, methods=["GET"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.metrics, methods=["GET"], response_model=None)
    return app


class Server(uvicorn.Server):
    """Runs an application of :func:`create_app`.

    At shutdown it accepts no more connections and finishes running answers, for at most ``shutdown_seconds``.
    """

    def __init__(self, app: Any, config: ServeConfig) -> None:
        options: dict[str, Any] = {
            "host": config.host,
            "port": config.port,
            "log_level": "warning",
            "access_log": False,
            "http": BoundedProtocol,
        }
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=config.shutdown_seconds, **options))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; called by uvicorn."""
        closing = asyncio.ensure_future(self._close_when_idle())
        await super().shutdown(sockets)
        closing.cancel()

    async def _close_when_idle(self) -> None:
        # uvicorn waits for open connections, and a page keeps one open without an answer in it
        service: Service = self._app.state.service
        while service.admitted:
            await asyncio.sleep(0.05)
        await asyncio.sleep(GRACE_SECONDS)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.close()  # and not abort(): written bytes are still sent


class _Routes:
    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._created = int(time.time())

    @property
    def _service(self) -> Service:
        return self._app.state.service

    async def chat(self, request: Request) -> Response:
        """One answer, complete or streamed."""
        model, status = "-", 200
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(self._service.admit())
                chat = parse_chat(await request.body())  # small: the middleware has taken the clips out
                model = chat.model if chat.model in self._service.models else "-"
                prepared = await cancel_on_disconnect(request.receive, self._service.prepare(chat))
                if chat.stream:
                    return _Streamed(self._chunks(chat, prepared), stack.pop_all())
                finished = await cancel_on_disconnect(request.receive, self._complete(prepared))
                thoughts = finished.thoughts or None
                message = {"role": "assistant", "content": finished.answer, "reasoning_content": thoughts}
                choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.finish_reason}
                frame = _frame(chat.model, "chat.completion")
                return JSONResponse({**frame, "choices": [choice], "usage": _usage(finished)})
        except ApiError as error:
            status = error.status
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            status = CLIENT_CLOSED
            return Response(status_code=CLIENT_CLOSED)
        finally:
            self._service.metrics.requests.labels(model, str(status)).inc()

    async def models(self) -> dict[str, Any]:
        """The served models."""
        return {"object": "list", "data": [self._card(name) for name in self._service.models]}

    async def model(self, name: str) -> dict[str, Any]:
        """One served model."""
        if name not in self._service.models:
            raise ApiError(
                404, f"no model {name[:100]!r}; known: {', '.join(self._service.models)}", "model_not_found"
            )
        return self._card(name)

    async def health(self) -> Response:
        """200 while requests can be answered, else 503."""
        failure = self._service.failure
        return JSONResponse({"status": failure or "ok"}, 200 if failure is None else 503)

    async def metrics(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _card(self, name: str) -> dict[str, Any]:
        prompts = self._service.prompts[name].record()
        return {"id": name, "object": "model", "created": self._created, "owned_by": "alarm", "prompts": prompts}

    async def _complete(self, prepared: PreparedChat) -> Finished:
        async with aclosing(self._service.answer(prepared, streamed=False)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    return piece
        raise ApiError(500, "the engine ended without a response", "engine_failed")

    async def _chunks(self, chat: ChatRequest, prepared: PreparedChat) -> AsyncIterator[str]:
        """Server-sent events."""
        frame = _frame(chat.model, "chat.completion.chunk")
        with_usage = chat.stream_options is not None and chat.stream_options.include_usage
        more = {"usage": None} if with_usage else {}
        yield _event({**frame, "choices": [_choice({"role": "assistant", "content": ""})], **more})
        try:
            async with aclosing(self._service.answer(prepared, streamed=True)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Delta):
                        name = "reasoning_content" if piece.part == "thoughts" else "content"
                        yield _event({**frame, "choices": [_choice({name: piece.text})], **more})
                    else:
                        yield _event({**frame, "choices": [_choice({}, piece.finish_reason)], **more})
                        if with_usage:
                            yield _event({**frame, "choices": [], "usage": _usage(piece)})
        except ApiError as error:
            yield _event(error.body())  # the status 200 is on its way, so an error can only be an event
        yield "data: [DONE]\n\n"


class _Streamed(StreamingResponse):
    """A stream of events that closes ``stack`` at its end, also if the client disconnects before the first event."""

    def __init__(self, content: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._content, self._stack = content, stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A generator that was never begun runs no `finally` of its own: Starlette alone would leave the request
            # admitted for ever (https://github.com/sysid/sse-starlette/issues/156).
            await self._content.aclose()  # type: ignore[attr-defined]
            await self._stack.aclose()


def _frame(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _usage(finished: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": finished.reasoning_tokens},
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _error_response(request: Request, error: Exception) -> Response:
    """Convert an error to OpenAI's form, also those of the router (404, 405)."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, str(error.detail), "not_found", headers=dict(error.headers or {}))
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    """Answer an unexpected error without its details; Starlette logs it."""
    return JSONResponse(ApiError(500, "the server failed at this request", "internal_error").body(), 500)
