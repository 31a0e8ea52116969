"""The HTTP routes: OpenAI's chat completions over a :class:`Service`."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from src.common.log import get_logger
from src.serving.config import ServeConfig
from src.serving.errors import ApiError
from src.serving.http import Bodies, KeyGuard
from src.serving.schema import ChatRequest, parse_chat
from src.serving.service import Delta, Finished, Prepared, Service

log = get_logger(__name__)
T = TypeVar("T")
GONE = 499
"""Status counted for requests whose client has hung up."""


def create_app(open_service: Callable[[], Awaitable[Service]], config: ServeConfig) -> FastAPI:
    """The application; ``open_service`` is awaited when it starts, and the service is closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = await open_service()
        yield
        await app.state.service.close()

    app = FastAPI(title="ALARM", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(KeyGuard, key=config.key)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _broken)
    routes = _Routes(app, Bodies(config.limits))
    app.add_api_route("/v1/chat/completions", routes.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models/{name:path}", routes.model, methods=["GET"], response_model=None)
    app.add_api_route("/health", routes.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", routes.metrics, methods=["GET"], response_model=None)
    return app


class _Routes:
    def __init__(self, app: FastAPI, bodies: Bodies) -> None:
        self._app, self._bodies = app, bodies
        self._created = int(time.time())

    @property
    def _service(self) -> Service:
        return self._app.state.service

    async def chat(self, request: Request) -> Response:
        """One answer, whole or streamed."""
        model, status = "-", 200
        try:
            async with AsyncExitStack() as stack:
                body = await self._bodies.read(request)
                stack.callback(self._bodies.release, len(body))
                asked = parse_chat(body)
                stack.enter_context(self._service.admit())
                model = asked.model if asked.model in self._service.models else "-"
                prepared = await _unless_gone(request, self._service.prepare(asked))
                del body
                if asked.stream:
                    return _Streamed(self._chunks(asked, prepared), stack.pop_all())
                whole = await _unless_gone(request, self._whole(prepared))
                return JSONResponse(_completion(asked.model, whole))
        except ApiError as error:
            status = error.status
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            status = GONE
            return Response(status_code=GONE)
        finally:
            self._service.metrics.requests.labels(model, str(status)).inc()

    async def models(self) -> dict[str, Any]:
        """The served models."""
        return {"object": "list", "data": [self._card(name) for name in self._service.models]}

    async def model(self, name: str) -> dict[str, Any]:
        """One of them."""
        if name not in self._service.models:
            raise ApiError(
                404, f"no model {name[:100]!r}; known: {', '.join(self._service.models)}", "model_not_found"
            )
        return self._card(name)

    async def health(self) -> Response:
        """200 as long as requests can be answered."""
        failure = self._service.failure
        return JSONResponse({"status": failure or "ok"}, 200 if failure is None else 503)

    async def metrics(self) -> Response:
        """Prometheus' text format."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _card(self, name: str) -> dict[str, Any]:
        prompts = self._service.prompts[name].record()
        return {"id": name, "object": "model", "created": self._created, "owned_by": "alarm", "prompts": prompts}

    async def _whole(self, prepared: Prepared) -> Finished:
        async with aclosing(self._service.answer(prepared, streamed=False)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    return piece
        raise ApiError(500, "the engine ended without a response", "engine_failed")

    async def _chunks(self, asked: ChatRequest, prepared: Prepared) -> AsyncIterator[str]:
        """Server-sent events."""
        frame = _frame(asked.model, "chat.completion.chunk")
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
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
            yield _event(error.body())
        yield "data: [DONE]\n\n"


class _Streamed(StreamingResponse):
    """A stream that gives back its place also where it ends before it has begun."""

    def __init__(self, content: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._content, self._held = content, held

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()  # type: ignore[attr-defined]
            await self._held.aclose()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` gives; it is cancelled if the client hangs up meanwhile (:class:`ClientDisconnect`)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _frame(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _completion(model: str, whole: Finished) -> dict[str, Any]:
    message = {"role": "assistant", "content": whole.answer, "reasoning_content": whole.thoughts or None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": whole.finish_reason}
    return {**_frame(model, "chat.completion"), "choices": [choice], "usage": _usage(whole)}


def _usage(whole: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": whole.prompt_tokens,
        "completion_tokens": whole.completion_tokens,
        "total_tokens": whole.prompt_tokens + whole.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": whole.reasoning_tokens},
    }


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _told(request: Request, error: Exception) -> Response:
    """A refusal in OpenAI's form; also those of the router (404, 405)."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, str(error.detail), "not_found", headers=dict(error.headers or {}))
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """A mistake of ours: logged, and told without its details."""
    return JSONResponse(ApiError(500, "the server failed at this request", "internal_error").body(), 500)
