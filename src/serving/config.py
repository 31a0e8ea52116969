"""Settings of the server, validated before anything heavy is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.config import bind_dataclass
from src.common.errors import UserError
from src.inference.config import EngineConfig, ModelSettings, bind_with_model

QUICKSTART = ("saved/mini_whisper", "saved/mini_alarm_ca", "saved/mini_alarm_p")
KEY_VARIABLE = "ALARM_API_KEY"
GATE_VARIABLE = "ALARM_GATE"
"""Settings of the middleware as JSON, without the key."""
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of one request, and of all requests together.

    ``clip_seconds`` bounds each clip and ``clips`` their number; ``samples`` bounds the decoded size of one file over
    all its channels (a few bytes of FLAC can contain hours of silence), ``request_samples`` that of all clips of a
    request. ``body_mib`` and ``body_seconds`` bound the size of a body and the time to read it, ``pending_mib`` all
    bodies in memory. At most ``concurrent`` requests run (more get 429) and ``decoders`` files are decoded at a time.
    ``audio_url`` may name files on ``remote_hosts``, by default on none. ``text_mib`` bounds what a body has besides
    the base64 of its clips, ``clips_mib`` the decoded clips of all requests.
    """

    clip_seconds: float = 300.0
    clips: int = 16
    samples: int = 32_000_000
    request_samples: int = 64_000_000
    body_mib: float = 48.0
    body_seconds: float = 30.0
    pending_mib: float = 256.0
    concurrent: int = 128
    decoders: int = 4
    remote_hosts: list[str] = field(default_factory=list)
    remote_seconds: float = 10.0
    text_mib: float = 1.0
    clips_mib: float = 512.0

    def __post_init__(self) -> None:
        positive = ("clip_seconds", "clips", "samples", "request_samples", "body_mib", "body_seconds")
        for name in (*positive, "concurrent", "decoders"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.pending_mib < self.body_mib:
            raise ValueError(f"pending_mib is {self.pending_mib}, expected at least body_mib ({self.body_mib})")

    @property
    def body_bytes(self) -> int:
        """Size limit of a body in bytes."""
        return int(self.body_mib * MIB)


@dataclass(frozen=True)
class GateConfig:
    """Settings of :class:`src.serving.gate.Gate`.

    ``host`` is where the server listens, ``allowed_hosts`` are names by which clients may call it besides; ``system``
    is the text of requests without a system message, ``defaults`` are fields of requests that do not have them.
    """

    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    allowed_hosts: list[str] = field(default_factory=list)
    key: str | None = None
    system: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_environment(cls) -> GateConfig:
        """Settings for ``vllm serve --middleware``: JSON in :data:`GATE_VARIABLE`, the key in :data:`KEY_VARIABLE`.

        Raises :class:`UserError` for mistakes in it.
        """
        try:
            found = json.loads(os.environ.get(GATE_VARIABLE, "{}"))
        except ValueError as error:
            raise UserError(f"{GATE_VARIABLE} is not JSON ({error})") from error
        return bind_dataclass(cls, {**found, "key": os.environ.get(KEY_VARIABLE) or None}, GATE_VARIABLE)


@dataclass(frozen=True)
class ServeConfig:
    """Settings of ``serve.py``; the keys are explained in its YAML file."""

    model: ModelSettings = field(default_factory=ModelSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    limits: Limits = field(default_factory=Limits)
    prompts: dict[str, Any] | None = None
    checkpoint_name: str | list[str] | None = None
    models: dict[str, str | list[str]] | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    greedy: bool = False
    batch_size: int = 8
    demo: bool = False
    demo_port: int | None = None
    server: str | None = None
    allowed_hosts: list[str] = field(default_factory=list)
    llm_url: str | None = None
    llm_name: str | None = None
    llm_api_key: str | None = None
    shutdown_seconds: int = 60

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.llm_url is not None and not self.llm_url.startswith(("http://", "https://")):
            raise ValueError(f"llm_url is {self.llm_url!r}, expected the http(s) address of a vLLM server")
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server is {self.server!r}, expected the http(s) address of a server")
        if self.engine.workers not in (None, 1) or self.engine.cluster is not None:
            raise ValueError("engine.workers and engine.cluster: one engine is served; start one server for each GPU")
        for name, members in (self.models or {}).items():
            if not members:
                raise ValueError(f"models.{name}: names no checkpoint")

    @property
    def key(self) -> str | None:
        """The API key, from the configuration or from the environment."""
        return self.api_key or os.environ.get(KEY_VARIABLE) or None

    @property
    def page_port(self) -> int:
        """Port of the page: next to a server of our own the one after its port, alone the one that is given."""
        return self.demo_port or (self.port + 1 if self.server is None else self.port)

    @property
    def gate(self) -> GateConfig:
        """Settings of the middleware; requests keep their fields, models have their own system texts."""
        return GateConfig(self.limits, self.host, self.allowed_hosts, self.key)

    def served(self) -> dict[str, list[str]]:
        """Checkpoints by model name, the default model first.

        Every checkpoint of ``checkpoint_name`` is served under the name of its folder, several also together as
        ``ensemble``. Raises :class:`UserError` if there is none.
        """
        own = self.models or {}  # before the others: the first model is the default
        found = {name: [given] if isinstance(given, str) else list(given) for name, given in own.items()}
        names = [self.checkpoint_name] if isinstance(self.checkpoint_name, str) else list(self.checkpoint_name or ())
        if not names and not found:
            names = [name for name in QUICKSTART if Path(name).is_dir()]
            if not names:
                raise UserError(
                    f"there is no checkpoint in {', '.join(QUICKSTART)} yet: run ./quickstart.sh first, or give "
                    "checkpoint_name=FOLDER_OR_HUB_ID"
                )
        for name in names:
            short = name.rstrip("/").split("/")[-1]
            if short in found:
                raise UserError(
                    f"checkpoint_name: two models are named {short!r}; name them by models={{NAME: {name}}}"
                )
            found[short] = [name]
        if len(names) > 1:
            found.setdefault("ensemble", list(names))
        return found


def read_serve_config(raw: Mapping[str, Any]) -> ServeConfig:
    """Validate a resolved configuration. Raises :class:`ConfigError` with all wrong keys."""
    return bind_with_model(ServeConfig, raw)
