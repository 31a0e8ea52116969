"""Settings of the language model and of the engine that runs it, shared by generation, ``ask.py`` and the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from src.common.config import bind_dataclass
from src.prompts.reasoning import find_format

if TYPE_CHECKING:
    from src.inference.workers import OpenWorkers

T = TypeVar("T")
ClipFormat = Literal["wav", "mp3", "flac", "ogg"]
"""Formats of clips that an endpoint may take as they are."""
ARCHITECTURE_KEYS = ("config", "feature_extractor_configs", "from_pretrained")
"""Architecture keys of model configs (``model=alarm_ca``); accepted and not used, the checkpoint has its own."""


@dataclass(frozen=True)
class LlmSource:
    """Where a language model comes from: folder or Hub id, revision, and the folder of its LoRA in PEFT's format.

    ``reasoning`` is the format of its reasoning, where the chat template does not show it.
    """

    name: str
    revision: str | None = None
    lora: Path | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class ModelSettings:
    """The language model (``None``: the one the checkpoint was trained with), token limits, and precision.

    ``llm_embedding_dim`` is the width of its embeddings as the published commands state it, to be checked.
    ``front_end_dtype`` is the precision of the audio embedders (encoders, adapters, fusion, separators),
    ``encoder_dtype`` that of the encoders, where it differs. ``reasoning`` is the format of the language model's
    reasoning; None: that of the checkpoint's training, else the one that its chat template shows.
    """

    # vLLM's limits (`max_model_len` to `gpu_memory_utilization`) have published names here; `EngineConfig` takes
    # them over.

    llm: str | None = None
    llm_revision: str | None = None
    llm_embedding_dim: int | None = None
    max_tokens: int = 8192
    max_thinking_tokens: int = 1024
    max_model_len: int = 16384
    max_num_seq: int = 32
    max_num_batched_tokens: int = 16384
    gpu_memory_utilization: float = 0.7
    seed: int | None = None
    front_end_dtype: Literal["float32", "bfloat16"] = "float32"
    encoder_dtype: Literal["float32", "bfloat16"] | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected at least 1")
        if self.reasoning is not None:
            find_format(self.reasoning)


@dataclass(frozen=True)
class EngineConfig:
    """Settings of vLLM.

    ``max_model_len`` (prompt and response together) is lowered to what the model can do. ``dtype`` ``None`` is the
    model's own on a GPU and float32 on a CPU, ``enforce_eager`` ``None`` is true on a CPU, where compiling costs more
    than it gives back on short runs. ``kv_cache_gib`` is used only on a CPU; on a GPU ``gpu_memory_utilization`` is
    the share of memory for weights and cache. A checkpoint's ``lora`` is computed next to the language model
    (request), or added to the weights of a temporary copy (merge); auto is request on a GPU and merge on a CPU.
    ``workers`` (audio embedders with an engine each) run as processes of this machine, or with ``cluster="ray"`` on
    the machines of the Ray cluster at ``ray_address``. One that gives no sign of life for ``worker_timeout`` seconds
    (five times as long while it loads) is killed and its rows are reassigned. ``threads`` is the number of CPU
    threads of each engine and its audio embedders, ``None``: all cores (of several workers: their share).
    """

    max_model_len: int = 16384
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 16384
    gpu_memory_utilization: float = 0.7
    kv_cache_gib: float = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    enforce_eager: bool | None = None
    lora: Literal["auto", "request", "merge"] = "auto"
    seed: int = 0
    workers: int | None = None
    cluster: Literal["ray"] | None = None
    ray_address: str | None = None
    worker_timeout: float = 120.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1, or null")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected at least 1, or null")
        if not self.worker_timeout > 0:
            raise ValueError(f"worker_timeout is {self.worker_timeout}, expected seconds above 0")


@dataclass(frozen=True)
class EndpointConfig:
    """A chat endpoint in OpenAI's format that answers in place of an engine of our own (``engine=openai``).

    ``base_url`` ends before ``/chat/completions``. ``api_key_env`` names the environment variable with the key.
    ``concurrency`` requests are open at a time, started at no more than ``requests_per_minute``. A request is sent up
    to ``attempts`` times, each with ``timeout`` seconds for the next bytes of its answer. Clips in one of
    ``audio_formats`` are sent as they are, others as 16-bit WAV. ``max_tokens_field`` and ``thinking_tokens_field``
    are the names of the limits there; without the second the thinking budget is not sent, only added to the first.
    ``extra_body`` is added to every request. Prices are per million tokens.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    requests_per_minute: float | None = None
    attempts: int = 8
    timeout: float = 600.0
    audio_formats: list[ClipFormat] = field(default_factory=lambda: list[ClipFormat](["wav", "mp3"]))
    max_tokens_field: str = "max_tokens"
    thinking_tokens_field: str | None = None
    send_seed: bool = True
    extra_body: dict[str, Any] = field(default_factory=dict)
    price_per_million_input: float | None = None
    price_per_million_output: float | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url is {self.base_url!r}, expected the server's address as https://HOST/v1")
        if parts.username or parts.password or parts.query:
            # the address is stored in run.json
            raise ValueError("base_url holds credentials or a query; name the key's variable with engine.api_key_env")
        if not self.model:
            raise ValueError("model is missing: the name of the model at base_url")
        for name in ("concurrency", "attempts", "timeout", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected more than 0")

    @property
    def url(self) -> str:
        """Address of the chat completions."""
        return f"{(self.base_url or '').rstrip('/')}/chat/completions"

    def fingerprint(self) -> dict[str, Any]:
        """Settings that affect answers."""
        names = ("base_url", "audio_formats", "thinking_tokens_field", "send_seed", "extra_body")
        return {name: getattr(self, name) for name in names}

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of these tokens; ``None`` without both prices."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        total = prompt_tokens * self.price_per_million_input + completion_tokens * self.price_per_million_output
        return round(total / 1e6, 6)


def choose_workers(config: EngineConfig, devices: Sequence[str]) -> OpenWorkers | None:
    """How to start workers: on a Ray cluster, or as processes for ``devices``; ``None`` to work in this process."""
    if config.cluster == "ray":
        from src.inference.ray_workers import RayWorkers

        return lambda main: RayWorkers(main, config.workers, config.ray_address, config.worker_timeout)
    count = config.workers or len(devices)
    if count < 2:
        return None
    from src.inference.local_workers import LocalWorkers

    return lambda main: LocalWorkers(main, count, devices, config.worker_timeout)


def device_names(given: str | int | Sequence[int] | None) -> list[str]:
    """GPUs of ``0,1``, a number or a list, as ``CUDA_VISIBLE_DEVICES`` names them; none given: empty."""
    if given is None:
        return []
    listed = str(given).split(",") if isinstance(given, (str, int)) else given
    return [name for each in listed if (name := str(each).strip())]


def checkpoint_names(given: str | Sequence[str] | None) -> list[str]:
    """Names of a ``checkpoint_name``; several make an ensemble."""
    return [given] if isinstance(given, str) else list(given or ())


def bind_with_model(cls: type[T], raw: Mapping[str, Any]) -> T:
    """Build the settings dataclass ``cls`` from a resolved configuration with a ``model`` group.

    Raises :class:`ConfigError` with all wrong keys.
    """
    model = {name: value for name, value in raw.get("model", {}).items() if name not in ARCHITECTURE_KEYS}
    return bind_dataclass(cls, {**raw, "model": model}, "config")
