"""Settings of a generation run, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from src.audio.augment import AugmentConfig
from src.common.errors import ConfigError
from src.common.naming import generated_name
from src.common.seeds import row_seed
from src.inference.config import (
    EndpointConfig,
    EngineConfig,
    ModelSettings,
    bind_with_model,
    checkpoint_names,
    device_names,
)

ENCODED_INPUTS = ("clip", "other")
"""Kinds of audio input for which clips are encoded."""
ENGINE_KEYS = {
    "max_model_len": "max_model_len",
    "max_num_seq": "max_num_seqs",  # vLLM's own name has the s, the published key has not
    "max_num_batched_tokens": "max_num_batched_tokens",
    "gpu_memory_utilization": "gpu_memory_utilization",
}
"""Limits of vLLM: published name in the ``model`` group, name in :class:`EngineConfig`."""
Answers = Literal["written", "likelihood", "likelihood_sum"]
"""Chosen option of a multiple-choice question: as the reply says, or the likeliest text (per token, or in all)."""
AudioInput = Literal["clip", "none", "other", "description"]
"""Audio in the prompt: the row's clip, none, another row's clip, or the description as text in its place."""
DEFAULT_CHECKPOINT = "Blinorot/ALARM-CA"
"""The published default of ``checkpoint_name``, used where clips are encoded and no checkpoint is given."""


@dataclass(frozen=True)
class DatasetConfig:
    """Which rows: ``name`` of a local set (below ``data/datasets/raw``, or a folder) or Hub id.

    ``split`` ``None`` or empty is all splits. ``limit`` ``None``, 0 or -1 is all rows; ``shuffle`` draws the rows
    that it keeps from the whole split, seeded. ``debug_ind`` from 0 on: only that row of the first split.
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
    answers: Answers = "written"
    cuda_devices: str | int | list[int] | None = None
    strict: bool = False
    dry_run: bool = False
    dry_run_rows: int = 16
    dry_run_price: float | None = None
    dry_run_json: str | None = None
    push_to_hub: bool = False
    hf_username: str | None = None
    hf_repo_name: str | None = None
    hf_public: bool = False
    prompts: dict[str, Any] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    endpoint: EndpointConfig | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self._check_endpoint()
        elif self.uses_audio and not self.checkpoints:
            raise ValueError(f"checkpoint_name is required with audio_input={self.audio_input}")
        elif not self.uses_audio and not self.checkpoints and self.model.llm is None:
            raise ValueError("model.llm or checkpoint_name is required to know the language model")
        if self.augment.active and not self.uses_audio:
            raise ValueError(f"augment changes clips, and audio_input={self.audio_input} has none")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")
        if self.dry_run_rows < 1:
            raise ValueError(f"dry_run_rows is {self.dry_run_rows}, expected at least 1")

    def _check_endpoint(self) -> None:
        unused = {
            "checkpoint_name": self.checkpoints,
            "model.llm": self.model.llm,
            "cuda_devices": self.devices,
            "answers=likelihood": self.answers != "written",
        }
        given = [name for name, value in unused.items() if value]
        if given:
            raise ValueError(f"engine=openai answers with engine.model and has no use for {', '.join(given)}")

    @property
    def devices(self) -> list[str]:
        """GPUs of the run as ``CUDA_VISIBLE_DEVICES`` names them; none given: empty."""
        return device_names(self.cuda_devices)

    @property
    def uses_audio(self) -> bool:
        """Whether clips are encoded."""
        return self.audio_input in ENCODED_INPUTS

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoint names; several make an ensemble."""
        return checkpoint_names(self.checkpoint_name)

    def output_name(self) -> str:
        """Name of the output folder; runs with another ``audio_input`` than the clip have it as a tag."""
        name = self.dataset.name
        # of a path the last part; the slash of a Hub id becomes "_", as in the published names
        base = generated_name(
            name.rstrip("/").split("/")[-1] if name.startswith(("/", ".")) else name,
            self.checkpoints or ("no_checkpoint" if self.endpoint is None else "endpoint"),
            self.model.max_tokens,
            self.model.max_thinking_tokens,
            self.seed,
        )
        tag = self.run_tag or (None if self.audio_input == "clip" else self.audio_input)
        tags = [tag, None if self.options_seed is None else f"options_{self.options_seed}"]
        tags.append(None if self.answers == "written" else self.answers)
        tags.append(f"augment_{self.augment.digest()}" if self.augment.active else None)
        return "_".join([base, *(each for each in tags if each)])

    def request_seed(self, key: str) -> int | None:
        """Seed of one row, or ``None`` in a run without a seed."""
        return None if self.seed is None else row_seed(self.seed, key)


def with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with defaults that depend on other keys: the checkpoint where clips are encoded, and vLLM's limits."""
    filled = dict(raw)
    # of engine=openai only the keys of its file are left: Hydra does not keep the name of a chosen group
    if "base_url" in (filled.get("engine") or {}):
        # dry runs measure with as many rows as are answered at a time
        filled["endpoint"] = filled["engine"]
        filled["engine"] = {"max_num_seqs": filled["endpoint"].get("concurrency", EndpointConfig.concurrency)}
    if filled.get("endpoint") is not None:
        return filled
    if filled.get("checkpoint_name") is None and filled.get("audio_input", "clip") in ENCODED_INPUTS:
        filled["checkpoint_name"] = DEFAULT_CHECKPOINT
    if "engine" not in filled:  # published configurations give the limits in their `model` group
        model = filled.get("model", {})
        filled["engine"] = {to: model[name] for name, to in ENGINE_KEYS.items() if name in model}
    return filled


def read_run_config(raw: Mapping[str, Any]) -> RunConfig:
    """The checked configuration of a run. Raises :class:`ConfigError` with all wrong keys."""
    try:
        return bind_with_model(RunConfig, with_defaults(raw))
    except ConfigError as error:  # as the user wrote the keys
        raise ConfigError(str(error).replace("config.endpoint", "config.engine")) from error
