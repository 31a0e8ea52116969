"""A server over fakes on a real port, in a thread of the test's own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from src.inference.engine import Engine
from src.prompts import load_prompts
from src.serving.app import Server
from src.serving.config import ServeConfig
from src.serving.start import Loaded, make_app
from tests.serving.fakes import FakeEnsemble, engine

THOUGHTS, ANSWER = "it sounds\nlike a drum. ", "a kick, then a snare"


def script(prompt: str) -> str:
    """The answer to any prompt; ``long`` in it makes long thoughts."""
    if "</think>" in prompt.rpartition("<think>")[2]:
        return ANSWER
    return f"{THOUGHTS * (400 if 'long' in prompt else 1)}\n</think>\n\n{ANSWER}"


@contextmanager
def running(
    config: ServeConfig | None = None, over: Engine | None = None, ensembles: dict[str, Any] | None = None
) -> Iterator[tuple[str, uvicorn.Server]]:
    """Address and server; it is shut down at the end."""
    config = config or ServeConfig()
    ensembles = ensembles or {"m": FakeEnsemble()}
    loaded = Loaded(over or engine(script, context=20_000), ensembles, dict.fromkeys(ensembles, load_prompts("mini")))
    app = make_app(loaded, config)
    with listening(app, Server(app, config)) as served:
        yield served


@contextmanager
def listening(app: Any, server: uvicorn.Server | None = None) -> Iterator[tuple[str, uvicorn.Server]]:
    """An application on a free port."""
    server = server or uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
