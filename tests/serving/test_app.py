"""The HTTP routes over a scripted engine: answers, streams, the key, limits, metrics, shutdown."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from src.serving.config import Limits, ServeConfig
from tests.serving.client import ANSWER, THOUGHTS, running, script, wait_until
from tests.serving.fakes import FakeEnsemble, engine
from tests.serving.sounds import audio_url, chat, encoded, float_wav, input_audio

WAV = input_audio(encoded())
THOUGHT = THOUGHTS.strip()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(ensembles={"m": FakeEnsemble(), "both": FakeEnsemble(2)}) as (address, _):
        yield address


def ask(address: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=20, **options)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(chunks: list[dict[str, Any]], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name) or "" for chunk in chunks if chunk["choices"])


def test_a_whole_answer_has_thoughts_and_answer_apart(address: str) -> None:
    body = ask(address, chat(WAV, "what is it?")).json()
    assert body["object"] == "chat.completion" and body["model"] == "m"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
    assert choice["finish_reason"] == "stop"
    usage = body["usage"]
    written = len(script("")) + 1
    assert usage["completion_tokens"] == written and usage["total_tokens"] == written + usage["prompt_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == written - len(f"\n\n{ANSWER}") - 1


@pytest.mark.parametrize("part", [WAV, audio_url(encoded("ogg")), input_audio(encoded("mp3"), "mp3")])
def test_a_stream_adds_up_to_the_whole_answer(address: str, part: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = ask(address, chat(part, "what is it?", **options))
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response)
    assert joined(chunks, "reasoning_content") == THOUGHT and joined(chunks, "content") == ANSWER
    assert len(chunks) > 20 and len({chunk["id"] for chunk in chunks}) == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    whole = ask(address, chat(part, "what is it?")).json()
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]


def test_settings_of_a_request_are_its_own(address: str) -> None:
    cut = ask(address, chat("hi", max_tokens=4)).json()
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 4
    assert cut["choices"][0]["message"]["content"] == ""
    budget = ask(address, chat("long", thinking_token_budget=30)).json()["choices"][0]
    assert budget["message"]["content"] == ANSWER
    assert budget["message"]["reasoning_content"].endswith("i must answer now.")
    none = ask(address, chat("hi", thinking_token_budget=0)).json()["choices"][0]["message"]
    assert none["content"] == ANSWER and none["reasoning_content"] == "i must answer now."
    for stream in (False, True):
        stopped = ask(address, chat("hi", stop=["snare", "drum"], stream=stream))
        text = joined(events(stopped), "content") if stream else stopped.json()["choices"][0]["message"]["content"]
        assert text == "a kick, then a "


def test_several_clips_turns_and_members(address: str) -> None:
    turns = [
        {"role": "system", "content": "hear"},
        {"role": "user", "content": [WAV, {"type": "text", "text": "and"}, audio_url(encoded("flac", 2.0))]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [WAV]},
    ]
    one = ask(address, {"model": "m", "messages": turns}).json()["usage"]["prompt_tokens"]
    two = ask(address, {"model": "both", "messages": turns}).json()["usage"]["prompt_tokens"]
    assert two - one > 40  # the second member hears 4 s at 10 frames, between headings


def test_models_health_and_metrics(address: str) -> None:
    ids = [card["id"] for card in httpx.get(f"{address}/v1/models").json()["data"]]
    assert ids == ["m", "both"]
    card = httpx.get(f"{address}/v1/models/both").json()
    assert (card["id"], card["prompts"]["name"], card["prompts"]["source"]) == ("both", "mini", "shipped")
    assert httpx.get(f"{address}/v1/models/none").status_code == 404
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    ask(address, chat(WAV, "what?"))
    ask(address, chat("hi", model="nobody"))
    metrics = httpx.get(f"{address}/metrics").text
    assert 'alarm_requests_total{model="m",status="200"}' in metrics
    assert 'alarm_requests_total{model="-",status="404"}' in metrics
    assert "alarm_request_seconds_bucket" in metrics and "nobody" not in metrics


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (chat("hi", model="other"), 404, "known: m, both"),
        (chat(input_audio(b"nothing")), 400, "messages[0].content[0]"),
        (chat(input_audio(encoded("wav", 0.0))), 400, "0 s"),
        (chat(*[WAV] * 17), 400, "more than 16 clips"),
        (chat("x" * 30_000), 400, "does not fit the context"),
        (chat("x" * 1_300_000), 413, "besides the base64 of clips"),
        (chat("x" * 1_000_000), 400, "does not fit the context"),
        (chat({"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/a"}}, audio_url(b"x")), 400, "not read"),
        (chat(input_audio(float_wav([0.99] * 900))), 400, "too loud"),
    ],
)
def test_refusals_come_before_a_stream_begins(address: str, body: Any, status: int, why: str, stream: bool) -> None:
    response = ask(address, {**body, "stream": stream})
    assert response.status_code == status and why in response.json()["error"]["message"]


def test_what_is_not_there_is_told_in_the_same_form(address: str) -> None:
    assert httpx.get(f"{address}/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{address}/v1/chat/completions").status_code == 405
    assert httpx.post(f"{address}/v1/chat/completions", content=b"{}").status_code == 415


def test_without_the_key_only_health_answers() -> None:
    with running(ServeConfig(api_key="sesame")) as (address, _):
        for path in ("/v1/models", "/metrics", "/", "/docs", "/openapi.json", "/nothing", "//health", "/health/"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}):
                assert httpx.get(f"{address}{path}", headers=headers).status_code == 401, path
        assert ask(address, chat("hi")).status_code == 401
        assert httpx.get(f"{address}/health").status_code == 200
        assert ask(address, chat("hi"), headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert httpx.get(f"{address}/v1/models", auth=("any", "sesame")).status_code == 200


def test_the_key_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_API_KEY", "open")
    with running() as (address, _):
        assert ask(address, chat("hi")).status_code == 401


def test_more_than_fit_are_told_to_come_back() -> None:
    with running(ServeConfig(limits=Limits(concurrent=2))) as (address, _), ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(address, chat("long")), range(6)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and len(refused) <= 4
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert ask(address, chat("hi")).status_code == 200


def test_bodies_are_bounded_in_size_and_time() -> None:
    limits = Limits(body_mib=0.01, body_seconds=0.3)
    with running(ServeConfig(limits=limits)) as (address, _):
        large = json.dumps(chat("x" * 20_000)).encode()
        headers = {"Content-Type": "application/json"}
        url = f"{address}/v1/chat/completions"
        assert httpx.post(url, content=large, headers=headers).status_code == 413
        parts = (large[start : start + 1000] for start in range(0, len(large), 1000))
        assert httpx.post(url, content=parts, headers=headers).status_code == 413  # chunked: tells no length
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as slow:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_leaves_the_engine(stream: bool) -> None:
    made = engine(script, context=20_000)
    backend: Any = made.backend
    with running(over=made) as (address, _):
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(chat("long", stream=stream)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if stream:
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            wait_until(lambda: backend.calls)
        wait_until(lambda: backend.calls and not backend.active)
        metrics = httpx.get(f"{address}/metrics").text
        assert "alarm_requests_admitted 0.0" in metrics


def test_stopping_finishes_running_answers() -> None:
    found: list[httpx.Response] = []
    with running(ServeConfig(shutdown_seconds=20)) as (address, server):
        threads = [
            threading.Thread(target=lambda s=s: found.append(ask(address, chat("long", stream=s))))  # type: ignore[misc]
            for s in (False, True)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: "alarm_requests_admitted 2.0" in httpx.get(f"{address}/metrics").text)
        server.should_exit = True
        for thread in threads:
            thread.join(20)
    assert len(found) == 2 and all(response.status_code == 200 for response in found)
    assert all(ANSWER in response.text or joined(events(response), "content") == ANSWER for response in found)


def test_a_failed_engine_is_told_to_clients_and_by_health() -> None:
    with running(over=engine(script, fails_at=4)) as (address, _):
        assert ask(address, chat("hi")).status_code == 500
        assert ask(address, chat("hi")).status_code == 503
        assert httpx.get(f"{address}/health").status_code == 503


def test_an_engine_that_fails_in_a_stream_is_told_in_it() -> None:
    with running(over=engine(script, fails_at=9)) as (address, _):
        assert "engine failed" in events(ask(address, chat("hi", stream=True)))[-1]["error"]["message"]


def test_addresses_are_read_where_they_are_allowed() -> None:
    from tests.support.loopback import loopback

    with loopback() as files, running(ServeConfig(limits=Limits(remote_hosts=["127.0.0.1"]))) as (address, _):
        files.files = {"/a.wav": encoded(), "/b.wav": b"nothing"}

        def part(path: str) -> Any:
            return {"type": "audio_url", "audio_url": {"url": f"{files.address}{path}"}}

        assert ask(address, chat(part("/a.wav"), "what?")).status_code == 200
        for path, why in (("/b.wav", "cannot be read"), ("/none.wav", "answers 404")):
            response = ask(address, chat("what?", part(path)))
            assert response.status_code == 400 and why in response.json()["error"]["message"]
        local = part("/a.wav")
        local["audio_url"]["url"] = local["audio_url"]["url"].replace("127.0.0.1", "localhost")
        assert "not read" in ask(address, chat(local)).json()["error"]["message"]


def test_connections_without_an_answer_do_not_hold_up_the_end() -> None:
    with running(ServeConfig(shutdown_seconds=60)) as (address, server), httpx.Client() as client:
        client.get(f"{address}/health")
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as slow:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            slow.sendall(b"Content-Length: 100\r\n\r\n{")
            server.should_exit = True
            began = time.monotonic()
            while slow.recv(1000):
                pass
            assert time.monotonic() - began < 20
