"""Settings of the server, checked before anything heavy is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.config import bind_dataclass
from src.common.errors import UserError
from src.generation.config import ARCHITECTURE_KEYS, EngineConfig, ModelSettings

QUICKSTART = ("saved/mini_whisper", "saved/mini_alarm_ca", "saved/mini_alarm_p")
KEY_VARIABLE = "ALARM_API_KEY"
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for.

    ``clip_seconds`` and ``clips`` bound the audio of a request, ``samples`` what one file may decode to over all its
    channels (a few bytes of FLAC can hold hours of silence), ``request_samples`` what all clips of a request may
    decode to, ``body_mib`` and ``body_seconds`` what is read and for how long, ``pending_mib`` all bodies that are
    read or decoded at a time. ``concurrent`` requests are worked on, more are told to come back; ``decoders`` files
    are decoded at a time. ``remote_hosts`` may be read from by ``audio_url``: none is.
    """

    clip_seconds: float = 300.0
    clips: int = 16
    samples: int = 32_000_000
    request_samples: int = 160_000_000
    body_mib: float = 48.0
    body_seconds: float = 30.0
    pending_mib: float = 1024.0
    concurrent: int = 128
    decoders: int = 4
    remote_hosts: list[str] = field(default_factory=list)
    remote_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in (
            "clip_seconds",
            "clips",
            "samples",
            "request_samples",
            "body_mib",
            "body_seconds",
            "concurrent",
            "decoders",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.pending_mib < self.body_mib:
            raise ValueError(f"pending_mib is {self.pending_mib}, expected at least body_mib ({self.body_mib})")

    @property
    def body_bytes(self) -> int:
        """Longest body."""
        return int(self.body_mib * MIB)


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
    llm_url: str | None = None
    llm_name: str | None = None
    llm_api_key: str | None = None
    shutdown_seconds: int = 60

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.llm_url is not None and not self.llm_url.startswith(("http://", "https://")):
            raise ValueError(f"llm_url is {self.llm_url!r}, expected the http(s) address of a vLLM server")
        if self.engine.workers not in (None, 1) or self.engine.cluster is not None:
            raise ValueError("engine.workers and engine.cluster: one engine is served; start one server for each GPU")
        for name, members in (self.models or {}).items():
            if not members:
                raise ValueError(f"models.{name}: names no checkpoint")

    @property
    def key(self) -> str | None:
        """The key that clients must show, from here or from the environment."""
        return self.api_key or os.environ.get(KEY_VARIABLE) or None

    def served(self) -> dict[str, list[str]]:
        """Checkpoints by served name, the default model first.

        Every checkpoint of ``checkpoint_name`` is served by the name of its folder, several of them also together as
        ``ensemble``. Raises :class:`UserError` where there is none.
        """
        own = self.models or {}
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
    """The checked configuration. Raises :class:`ConfigError` with all wrong keys."""
    model = {name: value for name, value in raw.get("model", {}).items() if name not in ARCHITECTURE_KEYS}
    return bind_dataclass(ServeConfig, {**raw, "model": model}, "config")
