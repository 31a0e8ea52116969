"""The middleware over an application that answers as vLLM does, on a real port: rows S1 to S6 of hostile clients."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from openai import OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from src.common.errors import UserError
from src.serving.clip_decoder import CLIPS, DecodedClip
from src.serving.config import GateConfig, Limits
from src.serving.gate import CHAT, SMALL_BODY, Gate
from src.serving.intake import StoredBody
from src.serving.protocol import BoundedProtocol
from tests.serving.client import listening, wait_until
from tests.serving.sounds import audio_url, chat, encoded, input_audio, silence_bomb

LIMITS = Limits(decoders=2, concurrent=4)
IMPATIENT = Limits(decoders=1, body_seconds=1.0)
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class EchoServer:
    """Answers with what it was asked; keeps the bodies and clips that reached it."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.clips: list[list[tuple[np.ndarray, int]]] = []
        self.streaming = 0
        paths = ("/health", "/v1/models", "/metrics")
        self.app = Starlette(
            routes=[
                Route(CHAT, self.chat, methods=["POST"]),
                *(Route(path, lambda _: JSONResponse({"status": "ok"})) for path in paths),
            ]
        )

    async def chat(self, request: Request) -> Response:
        """A message with reasoning, complete or as events; ``long`` streams without end, ``slow`` takes a second."""
        body = await request.json()
        self.bodies.append(body)
        parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
        found = [CLIPS[part["audio_url"]["url"]] for part in parts if part["type"] == "audio_url"]
        self.clips.append([(clip.samples[0], clip.rate) for clip in found])
        last = body["messages"][-1]["content"]
        if last == "slow":
            await asyncio.sleep(1.0)
        message = {"role": "assistant", "content": 'a "reasoning":', "reasoning": "thoughts"}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            rest = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            return JSONResponse({**rest, "choices": [choice]})
        return StreamingResponse(self.events(endless=last == "long"), media_type="text/event-stream")

    async def events(self, endless: bool) -> Any:
        """Server-sent events of 8 KiB."""
        self.streaming += 1
        try:
            while True:
                yield f"data: {json.dumps({'delta': {'reasoning': 'x' * 8000}})}\n\n"
                if not endless:
                    return
                await asyncio.sleep(0)
        finally:
            self.streaming -= 1


class QuickProtocol(BoundedProtocol):
    """With bounds that tests can wait for."""

    head_seconds, stall_seconds = 1.0, 1.0


@contextmanager
def running(config: GateConfig | None = None) -> Iterator[tuple[str, EchoServer]]:
    """Address of the middleware over an :class:`EchoServer`."""
    echo = EchoServer()
    gate = Gate(echo.app, config or GateConfig(LIMITS))
    options: dict[str, Any] = {"log_level": "error", "timeout_graceful_shutdown": 5, "http": QuickProtocol}
    with listening(gate, uvicorn.Server(uvicorn.Config(gate, **options))) as (address, _):
        yield address, echo


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, EchoServer]]:
    with running() as found:
        yield found


def ask(address: str, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options}
    return httpx.post(f"{address}{CHAT}", content=content, headers=headers, timeout=30)


def connect(address: str, sent: bytes = b"", small: bool = False) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    made = socket.socket()
    if small:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(20)
    made.connect((host, int(port)))
    made.sendall(sent)
    return made


def error(response: httpx.Response) -> str:
    return response.json()["error"]["message"]


def test_clips_reach_the_model_decoded_and_before_their_text(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    for part in (input_audio(encoded()), audio_url(encoded("ogg")), input_audio(encoded("mp3", 3.0), "mp3")):
        assert ask(address, chat("what is", "it?", part, top_k=3)).status_code == 200
        body, ((samples, rate),) = echo.bodies[-1], echo.clips[-1]
        assert (rate, samples.dtype, samples.ndim) == (16000, np.float32, 1)
        assert 0.25 < np.abs(samples).max() < 0.35
        audio, text = body["messages"][0]["content"]
        assert audio["type"] == "audio_url" and text == {"type": "text", "text": "what is\nit?"}
        assert body["top_k"] == 3
    assert not CLIPS  # freed with the request


def test_the_same_clip_has_the_same_identity_however_it_is_sent(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    found = []
    for part in (input_audio(encoded()), audio_url(encoded()), input_audio(encoded(pitch=500))):
        part["uuid"] = "mine"  # a client must not choose what is cached
        ask(address, chat(part, "?"))
        found.append(echo.bodies[-1]["messages"][0]["content"][0]["uuid"])
    assert found[0] == found[1] != found[2] and "mine" not in found


def test_several_clips_keep_their_places_and_turns_their_order(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    clip = input_audio(encoded())
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "one"}, clip, {"type": "text", "text": "two"}, clip]},
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        {"role": "user", "content": "on"},
    ]
    assert ask(address, {"model": "m", "messages": turns}).status_code == 200
    first, second, third, last = echo.bodies[-1]["messages"]
    assert first == {"role": "system", "content": "a\nb"}
    assert [part.get("text", "clip") for part in second["content"]] == ["one", "clip", "two", "clip"]
    assert third == {"role": "assistant", "content": "yes"} and last["content"] == "on"


def test_defaults_and_the_system_text_are_added_where_a_request_has_none() -> None:
    config = GateConfig(LIMITS, system="hear", defaults={"max_tokens": 5, "temperature": 0})
    with running(config) as (address, echo):
        ask(address, chat("hi", max_completion_tokens=7))
        assert echo.bodies[-1]["messages"][0] == {"role": "system", "content": "hear"}
        assert echo.bodies[-1]["temperature"] == 0 and "max_tokens" not in echo.bodies[-1]
        own = [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]
        ask(address, {"model": "m", "messages": own, "temperature": 1})
        assert echo.bodies[-1]["messages"] == own[1:] and echo.bodies[-1]["temperature"] == 1
        assert echo.bodies[-1]["max_tokens"] == 5


def test_reasoning_has_the_name_that_clients_know(served: tuple[str, EchoServer]) -> None:
    address, _ = served
    whole = ask(address, chat("hi"))
    assert whole.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": 'a "reasoning":',
        "reasoning_content": "thoughts",
    }
    streamed = ask(address, chat("hi", stream=True))
    assert json.loads(streamed.text.removeprefix("data: "))["delta"].keys() == {"reasoning_content"}


def test_s1_histories_of_the_openai_package_are_accepted(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    client = OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0)
    said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    history: Any = [{"role": "user", "content": "hi"}, said.choices[0].message.model_dump()]
    history.append({"role": "user", "content": "and?", "name": None})
    client.chat.completions.create(model="m", messages=history, stop=None, seed=None, tools=None)
    assert echo.bodies[-1]["messages"][1] == {"role": "assistant", "content": 'a "reasoning":'}
    empty = {"role": "assistant", "content": None, "tool_calls": [], "function_call": None, "refusal": None}
    history[1] = empty
    client.chat.completions.create(model="m", messages=history)


def test_s2_base64_in_the_forms_that_encoders_write(served: tuple[str, EchoServer]) -> None:
    import base64

    address, echo = served
    long = encoded("wav", 2.0)
    for data in (encoded("wav", 0.1), long):
        expected = None
        for text in (b64encode(data).decode(), base64.encodebytes(data).decode(), f"{b64encode(data).decode()}\r\n"):
            part = {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}
            assert ask(address, chat(part, "?")).status_code == 200
            samples = echo.clips[-1][0][0]
            expected = samples if expected is None else expected
            assert np.array_equal(samples, expected)
        slashes = json.dumps(chat(input_audio(data), "?")).replace("/", "\\/").encode()
        assert ask(address, slashes).status_code == 200 and np.array_equal(echo.clips[-1][0][0], samples)
        part["input_audio"]["data"] = f"data:audio/wav;base64,{b64encode(data).decode()}"
        refused = ask(address, chat(part, "?"))
        assert refused.status_code == 400 and "what follows its comma" in error(refused)


GOOD = b'{"model":"m","messages":[{"role":"user","content":"hi"}],'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (GOOD + b'"metadata":{"a":"' + b"x" * (47 << 20) + b'"}}', 413),
        (GOOD + b'"metadata":{"a":[' + b"0," * (23 << 20) + b"0]}}", 413),
        (GOOD + b'"metadata":' + b'{"a":' * (9 << 20), 413),
        (GOOD + b'"' + b"k" * 20_000_000 + b'":1}', 413),
        (GOOD + b'"' + b"k" * 10_000 + b'":1}', 400),
        (GOOD + b'"\\ud800":1}', 400),
        (b'{"model":"\\ud800","messages":[{"role":"user","content":"hi"}]}', 400),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', 400),
        (b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * (47 << 20) + b'"}]}', 413),
        (b'{"model":"m","messages":[{"role":"user","content":"' + b'\\"' * (1 << 20) + b'"}]}', 413),
        (b"[" * 200_000, 400),
        (b'"' * (40 << 20), 413),
        (GOOD + b'"x":"' + b"A" * 20_000 + b'\\"}', 400),
        (bytes(49 << 20), 413),
    ],
)
def test_s3_large_bodies_are_refused_and_hold_up_nobody(
    served: tuple[str, EchoServer], body: bytes, status: int
) -> None:
    address, _ = served
    refused = ask(address, body)
    assert refused.status_code == status and len(refused.content) < 1000


def test_s3_nothing_that_grows_with_a_body_runs_in_the_servers_process(
    served: tuple[str, EchoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's process parses what the middleware has left of a body, never the body."""
    address, echo = served
    sizes: list[int] = []
    plain = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **rest: sizes.append(len(text)) or plain(text, **rest))
    clip = input_audio(encoded("wav", 60.0))
    assert len(clip["input_audio"]["data"]) > 2_000_000
    assert ask(address, chat(clip, "?")).status_code == 200
    assert len(echo.clips[-1][0][0]) == 60 * 16000
    assert [size for size in sizes if size > 5000] == []


def test_a_large_body_is_read_by_the_process_that_takes_it_in(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    clip = encoded(seconds=60.0)
    assert len(clip) > SMALL_BODY
    assert ask(address, chat("what is it?", input_audio(clip))).status_code == 200
    ((samples, rate),) = echo.clips[-1]
    assert samples.size == 60 * rate


def test_a_body_that_is_gone_is_an_error_and_never_another_ones(tmp_path: Path) -> None:
    body = StoredBody(b"a" * 10)
    body.write(b"b" * 10)
    elsewhere = pickle.loads(pickle.dumps(body))
    assert elsewhere.read() == body.read() == b"a" * 10 + b"b" * 10
    body.close()
    with open(tmp_path / "other", "w+b") as other:  # most likely under the number that is free again
        other.write(b"secret")
        with pytest.raises(OSError):
            elsewhere.read()


def test_a_body_is_readable_where_the_system_has_no_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    body = StoredBody(b"text")
    path = Path(body._path)
    assert pickle.loads(pickle.dumps(body)).read() == b"text" and path.exists()
    body.close()
    assert not path.exists()


def test_bodies_are_bounded_in_size_and_time_before_they_are_read(served: tuple[str, EchoServer]) -> None:
    address, _ = served
    for kind in ("text/plain", "multipart/form-data; boundary=x"):
        assert ask(address, chat("hi"), **{"Content-Type": kind}).status_code == 415
    for claim, status in (("10737418240", b"413"), ("99999999999999999999999", b"4"), ("-5", b"4"), ("x", b"4")):
        with connect(address, f"{HEAD}Content-Length: {claim}\r\n\r\n{{".encode()) as each:
            assert each.recv(100).startswith(b"HTTP/1.1 " + status), claim
    late = f"{HEAD}Content-Length: 100\r\n\r\n{{".encode()
    with running(GateConfig(IMPATIENT)) as (address, _), connect(address, late) as slow:
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_s4_idle_and_half_open_connections_hold_up_nobody_and_are_closed() -> None:
    starts = (b"", b"POST /v1/chat", HEAD.encode(), f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
    with running(GateConfig(IMPATIENT)) as (address, _):
        idle = [connect(address, starts[number % 4]) for number in range(800)]
        try:
            assert ask(address, chat("hi")).status_code == 200
            assert httpx.get(f"{address}/health").status_code == 200
            for each in idle:
                try:
                    while each.recv(1000):
                        pass
                except ConnectionResetError:
                    pass
        finally:
            for each in idle:
                each.close()


def test_s4_a_head_without_end_is_cut_off(served: tuple[str, EchoServer]) -> None:
    address, _ = served
    with connect(address, HEAD.encode()) as each, pytest.raises(OSError):
        for _ in range(10_000):
            each.sendall(b"X-Filler: " + b"x" * 4000 + b"\r\n")


def test_s5_a_client_that_stops_reading_frees_its_place(served: tuple[str, EchoServer]) -> None:
    address, echo = served
    body = json.dumps(chat("long", stream=True)).encode()
    stalled = [
        connect(address, f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body, small=True) for _ in range(4)
    ]
    try:
        wait_until(lambda: echo.streaming == 4)
        assert ask(address, chat("hi")).status_code == 429  # all places are taken
        wait_until(lambda: echo.streaming == 0, 20)
        assert ask(address, chat("hi")).status_code == 200
    finally:
        for each in stalled:
            each.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("192.168.1.7", 200),
        ("[::1]:8000", 200),
        ("gpu-host:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("", 403),
    ],
)
def test_s6_names_of_others_are_refused_without_a_key(host: str, status: int) -> None:
    gate = GateConfig(LIMITS, allowed_hosts=["GPU-host"])
    assert asyncio.run(status_for(gate, host)) == status
    assert asyncio.run(status_for(GateConfig(LIMITS, key="k"), host, b"Bearer k")) == 200


async def status_for(config: GateConfig, host: str, key: bytes = b"") -> int:
    """Status of ``/health`` and ``/v1/models`` for a Host header."""
    statuses = set()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.add(message["status"])

    for path in ("/health", "/v1/models"):
        headers = [(b"host", host.encode()), (b"authorization", key)]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
        await Gate(EchoServer().app, config)(scope, None, send)
    (status,) = statuses
    return status


def test_without_the_key_only_health_answers() -> None:
    with running(GateConfig(LIMITS, key="sesame")) as (address, echo):
        for path in ("/v1/models", "/metrics", "/", "/docs", "/openapi.json", "//health", "/health/", "/invocations"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
                assert httpx.get(f"{address}{path}", headers=headers).status_code == 401, path
        assert ask(address, chat("hi")).status_code == 401 and not echo.bodies
        assert httpx.get(f"{address}/health").status_code == 200
        assert ask(address, chat("hi"), Authorization="Bearer sesame").status_code == 200
        assert httpx.get(f"{address}/v1/models", auth=("any", "sesame")).status_code == 200


def test_other_paths_of_vllm_are_not_served(served: tuple[str, EchoServer]) -> None:
    address, _ = served
    for path in (
        "/v1/completions",
        "/v1/chat/completions/batch",
        "/invocations",
        "/scale_elastic_ep",
        "/v1/responses",
    ):
        assert httpx.post(f"{address}{path}", json={}).status_code == 404
    assert httpx.get(f"{address}/docs").status_code == 404
    assert httpx.get(f"{address}{CHAT}").status_code == 405


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chat(*[input_audio(encoded())] * 17), "more than 16 clips"),
        (chat(input_audio(b"nothing")), "messages[0].content[0]: "),
        (chat(input_audio(encoded("wav", 0.0))), "0 s"),
        (chat(input_audio(encoded("ogg"))), "those of a ogg file"),
        (chat(input_audio(silence_bomb(), "flac")), "at most 300 s"),
        (chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}), "expected a part of type"),
        (chat({"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}), "reads no files"),
        (chat({"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/a"}}), "are not read"),
        (chat({"type": "audio_url", "audio_url": {"url": "clip:0/0"}}), "reads no files"),
        (chat("hi", n=1000), "n: expected 1 to 8"),
        ({"model": "m", "messages": []}, "messages: expected"),
        ({"model": "m", "messages": [{"role": "user", "content": "a", "cache": "/tmp"}]}, "cache: unknown field"),
        ({"model": "m", "messages": [{"role": "tool", "content": "x"}]}, "role: expected"),
        ({"model": "m", "messages": [{"role": "assistant", "content": [input_audio(encoded())]}]}, "user's messages"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(served: tuple[str, EchoServer], body: Any, why: str) -> None:
    refused = ask(served[0], body)
    assert refused.status_code == 400 and why in error(refused)


def test_clips_that_are_long_together_are_refused_or_decoded_alone() -> None:
    limits = Limits(decoders=2, request_samples=10_000_000)
    with running(GateConfig(limits)) as (address, echo):
        clip = input_audio(encoded("flac", 280.0), "flac")
        assert ask(address, chat(clip, clip, "?")).status_code == 200  # more than is decoded side by side
        assert [len(samples) for samples, _ in echo.clips[-1]] == [280 * 16000] * 2
        refused = ask(address, chat(clip, clip, clip, "?"))
        assert refused.status_code == 400 and "more than 10000000 samples" in error(refused)


def test_clips_of_all_requests_share_memory() -> None:
    with running(GateConfig(Limits(decoders=2, clips_mib=0.1))) as (address, _):
        refused = ask(address, chat(input_audio(encoded("wav", 3.0)), "?"))
        assert refused.status_code == 503 and "use all the memory" in error(refused)
        assert ask(address, chat(input_audio(encoded("wav", 1.0)), "?")).status_code == 200


def test_more_than_fit_are_told_to_come_back(served: tuple[str, EchoServer]) -> None:
    address, _ = served
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(address, chat("slow")), range(10)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 6 and all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


def test_requests_survive_a_decoder_that_dies() -> None:
    gate = Gate(EchoServer().app, GateConfig(LIMITS))
    options: dict[str, Any] = {"log_level": "error", "http": QuickProtocol}
    with listening(gate, uvicorn.Server(uvicorn.Config(gate, **options))) as (address, _):
        pool = gate._decoders.start()
        wait_until(lambda: len(pool._processes) > 0, 60)
        for process in list(pool._processes.values()):
            os.kill(process.pid or 0, 9)
        assert ask(address, chat(input_audio(encoded()), "?")).status_code == 200


def test_addresses_are_read_where_they_are_allowed() -> None:
    from tests.support.loopback import loopback

    limits = Limits(decoders=1, remote_hosts=["127.0.0.1"])
    with loopback() as files, running(GateConfig(limits)) as (address, _):
        files.files = {"/a.wav": encoded(), "/b.wav": b"nothing"}

        def part(path: str, host: str = "127.0.0.1") -> Any:
            url = f"{files.address}{path}".replace("127.0.0.1", host)
            return {"type": "audio_url", "audio_url": {"url": url}}

        assert ask(address, chat(part("/a.wav"), "what?")).status_code == 200
        for path, why in (("/b.wav", "cannot be read"), ("/none.wav", "answers 404")):
            response = ask(address, chat("what?", part(path)))
            assert response.status_code == 400 and why in error(response)
        assert "not read" in error(ask(address, chat(part("/a.wav", "localhost"))))


def test_a_client_that_leaves_ends_its_request() -> None:
    with running() as (address, echo):
        body = json.dumps(chat("long", stream=True)).encode()
        with connect(address, f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body) as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            wait_until(lambda: echo.streaming == 1)
        wait_until(lambda: echo.streaming == 0)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALARM_API_KEY", raising=False)
    assert GateConfig.from_environment() == GateConfig()
    given = {"limits": {"clips": 3}, "allowed_hosts": ["a"], "system": "hear", "defaults": {"max_tokens": 5}}
    monkeypatch.setenv("ALARM_GATE", json.dumps(given))
    monkeypatch.setenv("ALARM_API_KEY", "key")
    expected = GateConfig(Limits(clips=3), "127.0.0.1", ["a"], "key", "hear", {"max_tokens": 5})
    assert GateConfig.from_environment() == expected
    for wrong, why in (("{", "is not JSON"), ('{"limts": {}}', "limts"), ('{"limits": {"clips": 0}}', "clips is 0")):
        monkeypatch.setenv("ALARM_GATE", wrong)
        with pytest.raises(UserError, match=why):
            GateConfig.from_environment()


@pytest.mark.vllm
def test_vllm_gets_the_decoded_clips_and_opens_nothing_else() -> None:
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from src.serving import connector

    found: Any = MEDIA_CONNECTOR_REGISTRY.load(connector.NAME)
    CLIPS["clip:1/0"] = DecodedClip(np.ones((1, 5), np.float32), 8000)
    try:
        samples, rate = asyncio.run(found.fetch_audio_async("clip:1/0"))
        assert (samples.shape, rate) == ((5,), 8000)
        for url in (
            "clip:1/1",
            "file:///etc/passwd",
            "http://127.0.0.1/a.wav",
            audio_url(encoded())["audio_url"]["url"],
        ):
            with pytest.raises(ValueError, match="input_audio or audio_url"):
                asyncio.run(found.fetch_audio_async(url))
    finally:
        CLIPS.clear()
