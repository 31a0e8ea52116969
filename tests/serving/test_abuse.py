"""Malformed and hostile requests: each is told why it is refused, none is noticed by anybody else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from src.serving.config import Limits, ServeConfig
from tests.serving.client import ANSWER, running, script
from tests.serving.fakes import engine
from tests.serving.hostile import Attack, attacks
from tests.serving.sounds import chat, encoded, input_audio

LIMITS = Limits(clip_seconds=60, body_mib=2.0, body_seconds=2.0)
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    made = engine(script, context=20_000, seconds=0.0005)
    with running(ServeConfig(limits=LIMITS), made) as (address, _):
        yield address


class Bystander:
    """An honest client that asks all the time; ``slowest`` and wrong answers are kept."""

    def __init__(self, address: str) -> None:
        self._address, self._ended = address, threading.Event()
        self.count, self.slowest, self.wrong = 0, 0.0, []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        body = chat(input_audio(encoded("wav", 0.5)), "what?")
        with httpx.Client(timeout=30) as client:
            while not self._ended.is_set():
                began = time.monotonic()
                response = client.post(f"{self._address}/v1/chat/completions", json=body)
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.count += 1
                if response.status_code != 200 or response.json()["choices"][0]["message"]["content"] != ANSWER:
                    self.wrong.append(response.text)


def send(address: str, attack: Attack) -> httpx.Response:
    url = f"{address}/v1/chat/completions"
    return httpx.post(url, content=attack.content(), headers=attack.headers, timeout=30)


@pytest.mark.slow
def test_two_hundred_hostile_requests(address: str) -> None:
    with Bystander(address) as honest, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda attack: (attack, send(address, attack)), attacks()))
    for attack, response in found:
        assert response.status_code in attack.statuses, f"{attack.name}: {response.status_code} {response.text[:200]}"
        error = response.json()["error"]
        assert len(error["message"]) > 10 and error["type"] == "invalid_request_error", attack.name
        assert "root:" not in response.text and "Traceback" not in response.text, attack.name
    assert honest.count > 5 and not honest.wrong
    assert honest.slowest < 10  # nobody is blocked for as long as a slow body may take
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def test_slow_bodies_are_ended_and_block_nobody(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), 20) for _ in range(40)]
    try:
        for number, each in enumerate(slow):
            each.sendall(f"{HEAD}Content-Length: 100000\r\n\r\n{{".encode() if number % 2 else HEAD.encode())
        began = time.monotonic()
        good: Any = httpx.post(f"{address}/v1/chat/completions", json=chat("hi"), timeout=20).json()
        assert good["choices"][0]["message"]["content"] == ANSWER
        assert time.monotonic() - began < 1.5
        for each in slow[1::2]:
            assert each.recv(100).startswith(b"HTTP/1.1 408")
    finally:
        for each in slow:
            each.close()


def test_claimed_lengths_are_refused_before_anything_is_read(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    for claim, status in (("10737418240", b"413"), ("99999999999999999999999", b"4"), ("-5", b"4"), ("x", b"4")):
        with socket.create_connection((host, int(port)), 20) as each:
            each.sendall(f"{HEAD}Content-Length: {claim}\r\n\r\n{{".encode())
            assert each.recv(100).startswith(b"HTTP/1.1 " + status), claim


def test_bytes_that_are_no_http_harm_nobody(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    for noise in (b"\x16\x03\x01" + bytes(200), b"GET " + b"a" * 200_000, b"\r\n" * 1000, b"POST / HTTP/9.9\r\n\r\n"):
        with socket.create_connection((host, int(port)), 20) as each:
            try:
                each.sendall(noise)
                each.shutdown(socket.SHUT_WR)
                each.recv(100)
            except OSError:
                pass
    assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.slow
def test_without_the_key_no_attack_is_even_read() -> None:
    with running(ServeConfig(api_key="sesame", limits=LIMITS)) as (address, _), ThreadPoolExecutor(8) as pool:
        small = [attack for attack in attacks() if len(attack.content()) < 100_000]
        for response in pool.map(lambda attack: send(address, attack), small):
            assert response.status_code == 401
