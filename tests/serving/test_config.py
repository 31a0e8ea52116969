"""Settings of the server: what is served by which name, and mistakes that are told at once."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.serving.config import Limits, ServeConfig, read_serve_config
from src.serving.start import bind_socket, serve


def read(*overrides: str) -> ServeConfig:
    return read_serve_config(compose("serve", list(overrides)))


def test_names_of_models() -> None:
    assert read("checkpoint_name=saved/a").served() == {"a": ["saved/a"]}
    several = read("checkpoint_name=[saved/a,Owner/B]").served()
    assert several == {"a": ["saved/a"], "B": ["Owner/B"], "ensemble": ["saved/a", "Owner/B"]}
    own = read("models={fast: saved/a, best: [saved/a, Owner/B]}").served()
    assert own == {"fast": ["saved/a"], "best": ["saved/a", "Owner/B"]}
    with pytest.raises(UserError, match="two models are named 'a'"):
        read("checkpoint_name=[x/a,y/a]").served()


def test_without_a_name_the_quickstart_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run ./quickstart.sh first"):
        read().served()
    for name in ("mini_whisper", "mini_alarm_p"):
        (tmp_path / "saved" / name).mkdir(parents=True)
    assert list(read().served()) == ["mini_whisper", "mini_alarm_p", "ensemble"]


def test_defaults_of_yaml_and_dataclass_agree() -> None:
    config = read()
    assert config.limits == Limits()
    plain: Any = ServeConfig()
    for name in ("host", "port", "greedy", "batch_size", "demo", "llm_url", "shutdown_seconds", "api_key", "models"):
        assert getattr(config, name) == getattr(plain, name), name


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("prot=1", "prot"),
        ("limits.clips=0", "clips is 0"),
        ("limits.pending_mib=1", "at least body_mib"),
        ("batch_size=0", "at least 1"),
        ("llm_url=gpu-host", "expected the http"),
        ("engine.workers=2", "one engine is served"),
        ("server=gpu-host", "expected the http"),
        ("models={a: []}", "names no checkpoint"),
    ],
)
def test_mistakes_are_told(given: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(given)


def test_an_address_that_is_taken_is_told_before_models_are_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        raw = compose("serve", [f"checkpoint_name={tmp_path}/none", f"port={port}"])
        with pytest.raises(UserError, match=f"cannot serve at 127.0.0.1:{port} .*in use"):
            serve(raw)
    with pytest.raises(UserError, match="cannot serve at 127.0.0.1:70000"):
        bind_socket("127.0.0.1", 70_000)


def test_the_page_has_the_port_that_is_given_or_the_next() -> None:
    assert read("port=9000").page_port == 9001 and read("port=9000", "demo_port=7000").page_port == 7000
    assert read("server=http://gpu-host:8000", "port=9000").page_port == 9000
