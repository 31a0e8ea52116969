"""ASGI middleware in front of vLLM's server: host and key checks, bounds on requests, and clips decoded by us.

``serve.py`` adds it to vLLM's application (``--middleware src.serving.gate.Gate``) and gives the settings in the
environment. Everything that grows with a body is done in other processes (:mod:`src.serving.intake`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import math
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from time import monotonic
from typing import Any, TypeVar

from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from src.serving.clip_decoder import CLIPS, REQUEST_TOO_LONG, ApiError, DecodedClip
from src.serving.config import MIB, GateConfig, Limits
from src.serving.intake import Intake, Rules, StoredBody, ready, take_in

Scope = MutableMapping[str, Any]
T = TypeVar("T")
App = Callable[[Scope, Any, Any], Awaitable[None]]
CHAT = "/v1/chat/completions"
OPEN_PATHS = ("/health",)
"""Answered without the key."""
POST_PATHS = (CHAT, "/tokenize", "/detokenize")
"""vLLM has more; they take lists of prompts, other media, or commands to the engine."""
GET_PATHS = ("/health", "/ping", "/version", "/metrics", "/load", "/v1/models")
SMALL_SAMPLES = 8_000_000
"""Samples of all clips of a request up to which requests are decoded side by side; larger ones one after another."""
PRIORITY, LOW_PRIORITY = 5, 10
"""Niceness of the decoding processes: they give way to the event loop and the engine."""
SMALL_BODY = MIB
"""Bytes up to which a body is sent to the process that takes it in; larger ones are read there from a file."""


class Gate:
    """Middleware class for ``--middleware``; ``config``: default from the environment, else defaults."""

    def __init__(self, app: App, config: GateConfig | None = None) -> None:
        self._config = config or GateConfig.from_environment()
        limits = self._config.limits
        rules = Rules(limits, self._config.system, self._config.defaults)
        self._app = app
        self._bodies = BodyReader(limits)
        self._decoders = Decoders(rules)
        self._admission = Admission(limits)
        self._clips = ClipStore(int(limits.clips_mib * MIB))
        self._refused, self._seconds = _metrics()
        if "vllm" in sys.modules:  # tests run the middleware over applications of their own
            import_module("src.serving.connector")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Refuse a request, or pass it on with a small body."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing below bounds or checks what comes by a WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            check_host(scope, self._config)
            check_key(scope, self._config.key)
            await self._answer(scope, receive, send)
        except ApiError as error:
            self._refused.labels(str(error.status)).inc()
            await refuse(error, scope, receive, send)
        except ClientDisconnect:
            self._refused.labels("499").inc()

    async def _lifespan(self, scope: Scope, receive: Any, send: Any) -> None:
        self._decoders.start()
        try:
            await self._app(scope, receive, send)
        finally:
            self._decoders.close()

    async def _answer(self, scope: Scope, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        if path not in (*GET_PATHS, *POST_PATHS) and not path.startswith("/v1/models/"):
            raise ApiError(404, f"no page {path[:100]!r}", "not_found")
        if path not in POST_PATHS or method != "POST":
            if method not in ("GET", "HEAD") or path in POST_PATHS:
                raise ApiError(405, f"{method[:20]} {path[:100]}: another method is expected", "bad_method")
            await self._app(scope, receive, send)
            return
        limit = self._config.limits.body_bytes if path == CHAT else int(self._config.limits.text_mib * MIB)
        request = Request(scope, receive)
        with self._bodies.opened(limit) as reading:
            body = await reading.read(request)
            if path != CHAT:
                text = body if isinstance(body, bytes) else body.read()
                await self._app(_with_length(scope, len(text)), _Replay(text, receive), send)
                return
            with self._admission.admit():
                intake = await self._decoders.run(body, receive)
                reading.release()
                self._seconds.inc(sum(clip.seconds for clip in intake.clips.values()))
                with self._clips.held(intake.clips):
                    inner = _with_length(scope, len(intake.body))
                    await self._app(inner, _Replay(intake.body, receive), _Renamed(send))


async def refuse(error: ApiError, scope: Scope, receive: Any, send: Any) -> None:
    """Answer with an error."""
    response = JSONResponse(error.body(), error.status, error.headers)
    # browsers read only the first of two challenges in one line: https://github.com/httpwg/http-core/issues/136
    if error.status == 401:
        response.headers.append("WWW-Authenticate", "Bearer")
    await response(scope, receive, send)


def check_host(scope: Scope, config: GateConfig) -> None:
    """Refuse names that nobody has configured. Raises :class:`ApiError`."""
    # DNS rebinding: the page of another site has its own name resolve to this server, and a browser then takes both
    # for one origin. It cannot do so with an address, and does not know the key.
    if config.key is not None:
        return
    given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    name = given.partition("]")[0].lstrip("[") if given.startswith("[") else given.rpartition(":")[0] or given
    name = name.lower().rstrip(".")
    if name == "localhost" or name in [host.lower() for host in (config.host, *config.allowed_hosts)]:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        reason = f"host {given[:100]!r} is not served; allow it by allowed_hosts=[NAME], or set a key"
        raise ApiError(403, reason, "host_not_allowed", headers={"Connection": "close"}) from None


def check_key(scope: Scope, key: str | None, open_paths: Collection[str] = OPEN_PATHS) -> None:
    """Accept the key as ``Authorization: Bearer KEY``, or as the password of HTTP Basic. Raises :class:`ApiError`."""
    if key is None or scope["path"] in open_paths:
        return
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, shown = given.partition(b" ")
    if scheme.lower() == b"basic":
        try:
            shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        except binascii.Error:
            shown = b""
    elif scheme.lower() != b"bearer":
        shown = b""
    # in a time that does not depend on how much of the key is right
    if not hmac.compare_digest(shown.strip(), key.encode()):
        headers = {"WWW-Authenticate": 'Basic realm="ALARM"', "Connection": "close"}
        raise ApiError(401, "no valid key; send it as Authorization: Bearer KEY", "invalid_api_key", headers=headers)


class Admission:
    """Bounds the number of chat requests that are being answered."""

    def __init__(self, limits: Limits) -> None:
        self._most, self._running = limits.concurrent, 0
        self._durations: deque[float] = deque([1.0], maxlen=64)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admit one request. Raises :class:`ApiError` (429) with a time to retry if the limit is reached."""
        if self._running >= self._most:
            wait = min(60, math.ceil(sum(self._durations) / len(self._durations) / 2))
            reason = f"{self._most} requests are being answered; try again in {wait} s"
            raise ApiError(429, reason, "too_many_requests", headers={"Retry-After": str(wait)})
        self._running += 1
        began = monotonic()
        try:
            yield
        finally:
            self._running -= 1
            self._durations.append(monotonic() - began)


class ClipStore:
    """Decoded clips of the requests that are being answered, of at most ``size`` bytes together."""

    def __init__(self, size: int) -> None:
        self._left = size

    @contextmanager
    def held(self, clips: dict[str, DecodedClip]) -> Iterator[None]:
        """Let vLLM find these clips. Raises :class:`ApiError` (503) if those of other requests use all the memory."""
        size = sum(clip.samples.nbytes for clip in clips.values())
        if size > self._left:
            reason = "the clips of other requests use all the memory; try again"
            raise ApiError(503, reason, "overloaded", headers={"Retry-After": "1"})
        self._left -= size
        CLIPS.update(clips)
        try:
            yield
        finally:
            self._left += size
            for url in clips:
                CLIPS.pop(url, None)


class BodyReader:
    """Reads request bodies; the sum of all bodies in memory is bounded."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.pending = limits, 0

    @contextmanager
    def opened(self, limit: int) -> Iterator[_Reading]:
        """A body of at most ``limit`` bytes, which counts until the end or until it is released."""
        reading = _Reading(self, limit)
        try:
            yield reading
        finally:
            reading.release()


class _Reading:
    def __init__(self, reader: BodyReader, limit: int) -> None:
        self._reader, self._limit, self._size = reader, limit, 0
        self._file: StoredBody | None = None

    def release(self) -> None:
        """Free the body."""
        self._reader.pending -= self._size
        self._size = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    async def read(self, request: Request) -> bytes | StoredBody:
        """The body, in a file unless it is small: no copy of a large one is made here.

        Raises :class:`ApiError`: 408 if it does not arrive in time, 413 if it is too large, 415 if it is not JSON,
        429 if the bodies of all requests are too large together.
        """
        limits, small = self._reader.limits, bytearray()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a page of another site may send other types without a CORS preflight
            raise ApiError(415, f"content-type is {kind[:60]!r}, expected application/json", "bad_content_type")
        claimed = request.headers.get("content-length", "0")
        # int() raises for more than 4300 digits (https://docs.python.org/3/library/stdtypes.html#int-max-str-digits)
        if not claimed.isdecimal() or len(claimed) > 18:
            raise ApiError(400, "content-length is not a number", "bad_content_length")
        if int(claimed) > self._limit:
            raise self._too_large()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    if self._reader.pending + len(chunk) > limits.pending_mib * MIB:
                        reason, wait = (
                            "too much is being read; try again",
                            {"Retry-After": "1", "Connection": "close"},
                        )
                        raise ApiError(429, reason, "too_many_requests", headers=wait)
                    self._size += len(chunk)
                    self._reader.pending += len(chunk)
                    if self._size > self._limit:
                        raise self._too_large()
                    if self._size <= SMALL_BODY:
                        small += chunk
                        continue
                    if self._file is None:
                        self._file = StoredBody(small)
                    self._file.write(chunk)
        except TimeoutError:
            reason = f"the body did not arrive within {limits.body_seconds:g} s ({self._size} bytes did)"
            raise ApiError(408, reason, "body_timeout", headers={"Connection": "close"}) from None
        return bytes(small) if self._file is None else self._file

    def _too_large(self) -> ApiError:
        reason = f"the body is larger than {self._limit / MIB:g} MiB"
        return ApiError(413, reason, "body_too_large", headers={"Connection": "close"})


class Decoders:
    """Processes that take in requests. When one dies (a decoder crashed), requests in work are tried again alone.

    Clips that are long together are decoded by one process of their own, one request after another, which gives way
    to the others: it bounds their memory, and they delay nobody else.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        small = replace(rules.limits, request_samples=min(SMALL_SAMPLES, rules.limits.request_samples))
        self._small_rules = replace(rules, limits=small)
        self._pools: dict[bool, ProcessPoolExecutor] = {}
        self._alone = asyncio.Lock()

    def start(self, alone: bool = False) -> ProcessPoolExecutor:
        """Start the processes, or the one for requests that are taken in ``alone``, unless they run."""
        if alone not in self._pools:
            # Forks of this process would copy the locks of its threads as they are, held ones too
            # (https://github.com/python/cpython/issues/96971); those of a small server start at once.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["src.serving.intake"])
            count, niceness = (1, LOW_PRIORITY) if alone else (self._rules.limits.decoders, PRIORITY)
            self._pools[alone] = ProcessPoolExecutor(count, context, os.nice, (niceness,))
            # A function of that module, which is imported with it: the preload of Python 3.11 misses what is only on
            # sys.path, and says nothing (https://github.com/python/cpython/issues/117378).
            self._submit(self._pools[alone], ready)
        return self._pools[alone]

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools.clear()

    async def run(self, body: bytes | StoredBody, receive: Any) -> Intake:
        """Take in a body. Raises :class:`ApiError`, and :class:`ClientDisconnect` if the client leaves meanwhile."""
        try:
            return await self._run(body, receive)
        except BrokenProcessPool:
            pass
        except ApiError as error:
            if error.code != REQUEST_TOO_LONG or self._small_rules == self._rules:
                raise
        async with self._alone:
            try:
                return await self._run(body, receive, alone=True)
            except BrokenProcessPool:
                raise ApiError(400, "a clip ended the process that decodes it", "bad_audio") from None

    @staticmethod
    def _submit(pool: ProcessPoolExecutor, work: Any, *args: Any) -> Any:
        """Submit work, which may start a process."""
        # A new process imports the main program again, here all of vLLM, unless that has neither a file nor a name
        # (multiprocessing/spawn.py, get_preparation_data).
        main: dict[str, Any] = vars(sys.modules["__main__"])
        hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
        main["__spec__"] = None
        try:
            return pool.submit(work, *args)
        finally:
            main.update(hidden)

    async def _run(self, body: bytes | StoredBody, receive: Any, alone: bool = False) -> Intake:
        pool, rules = self.start(alone), self._rules if alone else self._small_rules
        try:
            work: asyncio.Future[Intake] = asyncio.wrap_future(self._submit(pool, take_in, body, rules))
            return await cancel_on_disconnect(receive, work)
        except BrokenProcessPool:
            # it fails all requests in work at once and takes no more; the first of them makes room for a new pool
            if self._pools.get(alone) is pool:
                del self._pools[alone]
            raise


async def cancel_on_disconnect(receive: Any, work: Awaitable[T]) -> T:
    """Await ``work``; cancel it and raise :class:`ClientDisconnect` if the client disconnects meanwhile."""

    async def disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    # Starlette does not end a handler whose client has left: https://github.com/Kludex/starlette/issues/297
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class _Replay:
    """``receive`` of a request whose body was read: the new body once, then what the client does."""

    def __init__(self, body: bytes, receive: Any) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Renamed:
    """``send`` that writes ``reasoning_content`` where vLLM writes ``reasoning``, as other servers name it."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self._start: Any = None

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start" and any(
            name == b"content-length" for name, _ in message["headers"]
        ):
            self._start = message  # its length depends on the body, which is one message then
            return
        if message["type"] == "http.response.body":
            # vLLM has dropped the older name (https://github.com/vllm-project/vllm/issues/27755). No event need be
            # parsed: inside a JSON string the quotes would be escaped, so these bytes can only be the field.
            message = {**message, "body": message.get("body", b"").replace(b'"reasoning":', b'"reasoning_content":')}
            if self._start is not None:
                await self._send(_with_length(self._start, len(message["body"])))
                self._start = None
        await self._send(message)


def _with_length(message: Scope, length: int) -> Scope:
    """A scope, or the start of a response, with another length of its body."""
    kept = [each for each in message["headers"] if each[0] not in (b"content-length", b"transfer-encoding")]
    return {**message, "headers": [*kept, (b"content-length", str(length).encode())]}


@cache
def _metrics() -> tuple[Counter, Counter]:
    """Counters in the registry of vLLM's ``/metrics``."""
    refused = Counter("alarm_refused_requests", "Requests refused before they reach vLLM, by status", ["status"])
    return refused, Counter("alarm_audio_seconds", "Seconds of audio received")
