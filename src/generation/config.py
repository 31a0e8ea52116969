"""Settings of a generation run, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from src.common.config import bind_dataclass
from src.common.naming import generated_name
from src.common.seeds import row_seed

ENCODED_INPUTS = ("clip", "other")
"""Kinds of audio input for which clips are encoded."""
ENGINE_KEYS = {
    "max_model_len": "max_model_len",
    "max_num_seq": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "gpu_memory_utilization": "gpu_memory_utilization",
}
"""Limits of vLLM: published name in the ``model`` group, name in :class:`EngineConfig`."""
AudioInput = Literal["clip", "none", "other", "description"]
"""What the model hears: the row's clip, nothing, or another row's clip; ``description``: it reads instead."""
ARCHITECTURE_KEYS = ("config", "llm_embedding_dim", "feature_extractor_configs", "from_pretrained")
"""Architecture keys of model configs (both forms); accepted and not used, the checkpoint has its own."""
DEFAULT_CHECKPOINT = "Blinorot/ALARM-CA"
"""The published default of ``checkpoint_name``, used where clips are encoded and no checkpoint is given."""


@dataclass(frozen=True)
class DatasetConfig:
    """Which rows: ``name`` of a local set (below ``data/datasets/raw``, or a folder) or Hub id.

    ``split`` ``None`` or empty is all splits. ``limit`` ``None``, 0 or -1 is all rows; ``shuffle`` draws the rows
    that it keeps from the whole split, seeded. ``debug_ind`` from 0 on asks for that row of the first split alone.
    """

    name: str = "mmar"
    split: str | None = None
    limit: int | None = None
    shuffle: bool = False
    debug_ind: int = -1

    def __post_init__(self) -> None:
        if self.split == "":
            object.__setattr__(self, "split", None)
        if self.limit in (0, -1):
            object.__setattr__(self, "limit", None)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}, expected at least 1, or null, 0 or -1 for all rows")


@dataclass(frozen=True)
class ModelSettings:
    """The language model (``None``: the one the checkpoint was trained with) and how much it may write.

    ``llm_embedding_dim`` is the width of its embeddings as the published commands state it, to be checked.
    ``front_end_dtype`` is the precision of what encodes clips: encoders, adapters, fusion, separators;
    ``encoder_dtype`` that of the encoders alone, where it differs. Embeddings reach the engine in its own. The limits
    of vLLM stand here too, under the published names; :class:`EngineConfig` takes them over.
    """

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

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected at least 1")


@dataclass(frozen=True)
class EngineConfig:
    """Settings of vLLM.

    ``max_model_len`` (prompt and response together) is lowered to what the model can do. ``dtype`` ``None`` is the
    model's own on a GPU and float32 on a CPU, ``enforce_eager`` ``None`` is true on a CPU, where compiling costs more
    than it gives back on short runs. ``kv_cache_gib`` is used on a CPU alone; on a GPU ``gpu_memory_utilization`` is
    the share of memory for weights and cache. A checkpoint's ``lora`` is computed beside the language model
    (request), or added to the weights of a temporary copy (merge); auto is request on a GPU and merge on a CPU.
    ``workers`` (front ends with an engine each) run as processes of this machine, or with ``cluster="ray"`` on the
    machines of the Ray cluster at ``ray_address``.
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

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}, expected at least 1, or null")


@dataclass(frozen=True)
class RunConfig:
    """A run of ``generate_vllm.py`` or ``generate_vllm_mcqa.py``; the keys are explained in their YAML files."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    checkpoint_name: str | list[str] | None = None
    batch_size: int = 32
    seed: int | None = None
    greedy: bool = False
    save_audio: bool = False
    audio_input: AudioInput = "clip"
    run_tag: str | None = None
    overwrite: bool = False
    answer_fallback: Literal["none", "option_0"] = "none"
    options_seed: int | None = None
    cuda_devices: str | int | list[int] | None = None
    strict: bool = False
    dry_run: bool = False
    dry_run_rows: int = 16
    push_to_hub: bool = False
    hf_username: str | None = None
    hf_repo_name: str | None = None
    hf_public: bool = False
    prompts: dict[str, Any] | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.hears and not self.checkpoints:
            raise ValueError(f"checkpoint_name is required with audio_input={self.audio_input}")
        if not self.hears and not self.checkpoints and self.model.llm is None:
            raise ValueError("model.llm or checkpoint_name is required to know the language model")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.dry_run_rows < 1:
            raise ValueError(f"dry_run_rows is {self.dry_run_rows}, expected at least 1")

    @property
    def devices(self) -> list[str]:
        """GPUs of the run as ``CUDA_VISIBLE_DEVICES`` names them; none given: empty."""
        return device_names(self.cuda_devices)

    @property
    def hears(self) -> bool:
        """Whether clips are encoded at all."""
        return self.audio_input in ENCODED_INPUTS

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoint names; several make an ensemble."""
        if self.checkpoint_name is None:
            return []
        return [self.checkpoint_name] if isinstance(self.checkpoint_name, str) else list(self.checkpoint_name)

    def output_name(self) -> str:
        """Name of the output folder; runs that hear something else than the clip are marked by their tag."""
        name = self.dataset.name
        base = generated_name(
            name.rstrip("/").split("/")[-1] if name.startswith(("/", ".")) else name,
            self.checkpoints or "no_checkpoint",
            self.model.max_tokens,
            self.model.max_thinking_tokens,
            self.seed,
        )
        tag = self.run_tag or (None if self.audio_input == "clip" else self.audio_input)
        if self.options_seed is not None:
            tag = "_".join([*([tag] if tag else []), f"options_{self.options_seed}"])
        return base if tag is None else f"{base}_{tag}"

    def request_seed(self, key: str) -> int | None:
        """Seed of one row, or ``None`` in a run without a seed."""
        return None if self.seed is None else row_seed(self.seed, key)


def device_names(given: str | int | Sequence[int] | None) -> list[str]:
    """GPUs of ``0,1``, a number or a list, as ``CUDA_VISIBLE_DEVICES`` names them; none given: empty."""
    if given is None:
        return []
    listed = str(given).split(",") if isinstance(given, (str, int)) else given
    return [name for each in listed if (name := str(each).strip())]


def with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with what other keys decide: the default checkpoint where clips are encoded, and vLLM's limits.

    A published configuration has no ``engine`` group; the limits in its ``model`` are then those of the engine.
    """
    filled = dict(raw)
    if filled.get("checkpoint_name") is None and filled.get("audio_input", "clip") in ENCODED_INPUTS:
        filled["checkpoint_name"] = DEFAULT_CHECKPOINT
    if "engine" not in filled:
        model = filled.get("model", {})
        filled["engine"] = {to: model[name] for name, to in ENGINE_KEYS.items() if name in model}
    return filled


def read_run_config(raw: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of a run.

    What a model config (``model=alarm_ca``) says of the architecture is left out: the checkpoint's own counts. Raises
    :class:`ConfigError` with all wrong keys.
    """
    given = with_defaults(raw)
    left_out = set(ARCHITECTURE_KEYS) - {"llm_embedding_dim"}
    model = {name: value for name, value in given.get("model", {}).items() if name not in left_out}
    return bind_dataclass(RunConfig, {**given, "model": model}, "config")
