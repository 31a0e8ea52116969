"""Configuration of ``train.py``, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from src.audio.augment import AugmentConfig
from src.common.config import bind_dataclass
from src.common.errors import ConfigError
from src.common.log import get_logger
from src.dataset.corpus_names import expand_mixture
from src.dataset.mixture import TargetsEnd, TrainDatasetConfig
from src.dataset.sampler import LengthGrouping
from src.model.config import ModelConfig
from src.model.lora import LoraConfig
from src.model.objective import ObjectiveConfig
from src.model.published_config import bind_model

log = get_logger(__name__)
DEFAULT_SEED = 42

# The published system was written for transformers 4.57, whose TrainingArguments had keys that 5 renamed or removed:
# https://github.com/huggingface/transformers/blob/v4.57.0/src/transformers/training_args.py
_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "push_to_hub_token": "hub_token",
}
"""Old key -> the key that means the same."""
_WITHOUT_EFFECT = {
    "overwrite_output_dir": "files of an earlier run in the output folder are replaced either way; "
    "resume_from_checkpoint=true continues it",
    "save_safetensors": "checkpoints are always safetensors",
    "half_precision_backend": "mixed precision is always torch's autocast",
    "fp16_backend": "mixed precision is always torch's autocast",
    "fp16_opt_level": "mixed precision is always torch's autocast",
    "fsdp_min_num_params": "FSDP is chosen by the launcher: src/configs/accelerate/fsdp.yaml",
    "fsdp_transformer_layer_cls_to_wrap": "FSDP is chosen by the launcher: src/configs/accelerate/fsdp.yaml",
    "push_to_hub_model_id": "upload_model.py publishes a checkpoint",
    "push_to_hub_organization": "upload_model.py publishes a checkpoint",
    "include_tokens_per_second": "clips_per_second is always logged",
    "torchdynamo": "compile_layers=true compiles the transformer layers",
    **dict.fromkeys(
        (
            "use_mps_device", "jit_mode_eval", "use_ipex", "tpu_num_cores", "tpu_metrics_debug", "past_index",
            "use_legacy_prediction_loop", "include_inputs_for_metrics", "mp_parameters", "ray_scope",
            "dispatch_batches", "split_batches",
        ),
        "it has no effect here",
    ),
}  # fmt: skip
"""Old key -> what happens instead."""
_TRANSLATED = ("warmup_ratio", "adafactor", "group_by_length", "logging_dir")
_PUBLISHED_DEFAULTS = {"overwrite_output_dir": True}
"""Arguments that the published configuration itself sets: accepted without a line."""

LlmDtype = Literal["auto", "autocast", "float32", "bfloat16"]


@dataclass(frozen=True)
class BatchSearchConfig:
    """Bounds of the search for ``max_batch_positions=auto``.

    Attributes:
        memory_gib: most memory of the process on the device while it trains; None: what is free at the start.
        seconds: after so long the best size so far is taken.
        positions: largest size to try; None: a whole step in one micro-batch.
    """

    memory_gib: float | None = None
    seconds: float = 120
    positions: int | None = None

    def __post_init__(self) -> None:
        for name in ("memory_gib", "seconds", "positions"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected more than 0")


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run; ``src/configs/train.yaml`` describes each of them.

    ``training_args`` go to transformers' ``TrainingArguments``, and ``training_args.seed`` is the same as ``seed``.
    """

    dataset: TrainDatasetConfig
    model: dict[str, Any]
    training_args: dict[str, Any]
    seed: int = DEFAULT_SEED
    alternative_data_dir: str | None = None
    eval_mode: bool = False
    pretrained_adapters_dir: str | None = None
    pretrained_adapters_names: list[str] | dict[str, str] | None = None
    freeze_adapters: bool = False
    frozen_adapters_names: list[str] | None = None
    freeze_fusion: bool = False
    lora: dict[str, Any] | None = None
    resume_from_checkpoint: bool | str | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    llm_dtype: LlmDtype = "auto"
    targets_end: TargetsEnd | None = None
    model_max_length: int | None = 4096
    length_grouping: LengthGrouping = "within_step"
    max_batch_positions: int | Literal["auto"] | None = None
    batch_search: BatchSearchConfig = field(default_factory=BatchSearchConfig)
    packing: bool = False
    not_finite: Literal["stop", "skip"] = "stop"
    compile_layers: bool = False
    activation_memory_gib: float | Literal["auto"] | None = None
    overlap_encoders: bool = False
    sample_generations: bool | int = True
    sample_tokens: int = 512
    sample_metrics: list[str] = field(default_factory=lambda: ["bleu", "rouge", "meteor"])
    bertscore_model: str | None = None
    encoder_cache_mb: int = 0
    encoder_cache_dir: str | None = None
    random_weights: bool = False
    prompts: dict[str, Any] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    check_config: bool = False
    dry_run: bool = False
    dry_run_steps: int = 8
    dry_run_price: float | None = None
    dry_run_json: str | None = None

    def __post_init__(self) -> None:
        if self.frozen_adapters_names and not self.freeze_adapters:
            raise ValueError("frozen_adapters_names has no effect unless freeze_adapters is true")
        if self.pretrained_adapters_names and not self.pretrained_adapters_dir:
            raise ValueError("pretrained_adapters_names has no effect without pretrained_adapters_dir, their folder")
        if isinstance(self.max_batch_positions, int) and self.max_batch_positions < 1:
            raise ValueError(f"max_batch_positions is {self.max_batch_positions}, expected at least 1, auto, or null")
        if self.batch_search != BatchSearchConfig() and self.max_batch_positions != "auto":
            raise ValueError("batch_search has no effect unless max_batch_positions is auto")
        if isinstance(self.activation_memory_gib, float) and self.activation_memory_gib <= 0:
            raise ValueError(f"activation_memory_gib is {self.activation_memory_gib}, expected more than 0")
        if self.activation_memory_gib and self.training_args.get("gradient_checkpointing"):
            raise ValueError(
                "activation_memory_gib chooses which layers gradient_checkpointing=true takes; set only one"
            )
        if self.activation_memory_gib and self.max_batch_positions == "auto":
            raise ValueError(
                "activation_memory_gib needs the size of micro-batches: set max_batch_positions to a number"
            )
        if self.model_max_length is not None and self.model_max_length < 1:
            raise ValueError(f"model_max_length is {self.model_max_length}, expected at least 1")
        if self.llm_dtype == "autocast" and self.training_args.get("bf16") is not True:
            raise ValueError(
                "llm_dtype=autocast stores linear layers as training_args.bf16=true computes with them; bf16 is off"
            )
        if self.encoder_cache_dir and not self.encoder_cache_mb:
            raise ValueError("encoder_cache_dir has no effect unless encoder_cache_mb is above 0")
        if self.overlap_encoders and self.encoder_cache_mb:
            raise ValueError(
                "overlap_encoders computes states ahead that encoder_cache_mb keeps: set only one of them"
            )
        if self.augment.active and self.encoder_cache_mb:
            raise ValueError("encoder_cache_mb keeps states of clips that never change, and augment changes them")
        if self.sample_generations is True and not self.dataset.eval:
            object.__setattr__(self, "sample_generations", False)  # the dataclass is frozen
        if self.sample_generations and not self.dataset.eval:
            raise ValueError("sample_generations answers rows of the evaluation sets, and dataset.eval has none")
        if self.dry_run_steps < 1:
            raise ValueError(f"dry_run_steps is {self.dry_run_steps}, expected at least 1")
        if self.dry_run and self.eval_mode:
            raise ValueError("dry_run estimates a training, and eval_mode trains nothing")
        if self.bertscore_model and not self.sample_generations:
            raise ValueError("bertscore_model scores sample answers, and sample_generations is off")
        if self.eval_mode and not self.dataset.eval:
            raise ValueError("eval_mode needs evaluation sets, and dataset.eval has none")
        if not self.eval_mode and not self.dataset.train.rows:
            raise ValueError("dataset.train.rows is empty, at least one row is needed")


def bind_train_config(config: Mapping[str, Any]) -> TrainConfig:
    """Check a composed configuration, whose data and model may be in the published form.

    In the result ``training_args`` have the keys of the installed transformers and ``seed`` is the run's. Raises
    :class:`ConfigError` with every problem found.
    """
    dataset, given = config.get("dataset"), config.get("training_args")
    if isinstance(dataset, Mapping):
        config = {**config, "dataset": expand_mixture(dataset)}
    if isinstance(config.get("objective"), str):
        config = {**config, "objective": {"name": config["objective"]}}
    if isinstance(given, Mapping):
        translated, notes = _translate_removed(given)
        if notes:
            log.info("training_args: %s", "; ".join(notes))
        config = {**config, "training_args": translated, "seed": _one_seed(config.get("seed"), given.get("seed"))}
    bound = bind_dataclass(TrainConfig, config, "config")
    if bound.check_config:  # the check collects what is wrong with the model
        return bound
    model = bind_model_config(bound, logging.INFO)
    if not bound.model.get("from_pretrained"):  # its encoders are known once the checkpoint is opened
        check_adapter_names(bound, model)
    if not bound.training_args.get("output_dir"):
        raise ConfigError("training_args.output_dir: missing, give the folder of this run")
    return bound


def check_adapter_names(config: TrainConfig, model: ModelConfig) -> None:
    """Raise :class:`ConfigError` for adapters to load or to freeze of encoders that ``model`` does not have."""
    known = sorted(model.config.encoders)
    problems = []
    for key in ("pretrained_adapters_names", "frozen_adapters_names"):
        if unknown := [name for name in getattr(config, key) or () if name not in known]:
            problems.append(f"{key}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if problems:
        raise ConfigError("; ".join(problems))


def _translate_removed(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``training_args`` without removed keys, and for each of those what it means here.

    ``logging_dir`` becomes ``TENSORBOARD_LOGGING_DIR``, as transformers itself does now. A key whose value is null,
    or that of the published configuration, is left out without a line.
    """
    values = {key: value for key, value in given.items() if key not in (*_RENAMED, *_WITHOUT_EFFECT, *_TRANSLATED)}
    notes = []
    for key, value in given.items():
        if key in values or value is None or value == _PUBLISHED_DEFAULTS.get(key):
            continue
        if key in _RENAMED:
            values[_RENAMED[key]] = value
            notes.append(f"{key} is {_RENAMED[key]} now")
        elif key in _WITHOUT_EFFECT:
            notes.append(f"{key}: {_WITHOUT_EFFECT[key]}")
        elif key == "warmup_ratio":
            if value and not values.get("warmup_steps"):
                values["warmup_steps"] = value
                notes.append(f"warmup_ratio={value} is warmup_steps={value} now")
            elif value:
                notes.append(f"warmup_ratio has no effect next to warmup_steps={values['warmup_steps']}")
        elif key == "adafactor":
            values |= {"optim": "adafactor"} if value else {}
            notes += ["adafactor is optim=adafactor now"] if value else []
        elif key == "group_by_length":
            values |= {"train_sampling_strategy": "group_by_length"} if value else {}  # read by step_plan
            notes += ["group_by_length is length_grouping=across_steps here"] if value else []
        elif key == "logging_dir":
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(value))
            notes.append(f"TensorBoard's files go to {os.environ['TENSORBOARD_LOGGING_DIR']}")
    return values, notes


def _one_seed(own: Any, published: Any) -> Any:
    """The one seed of ``seed`` and ``training_args.seed``; a value that was given replaces a default."""
    if own is None:
        return DEFAULT_SEED if published is None else published
    if published not in (None, DEFAULT_SEED, own):
        raise ConfigError(f"seed is {own} and training_args.seed {published}; they are one setting, give one of them")
    return own


def bind_model_config(config: TrainConfig, level: int = logging.DEBUG) -> ModelConfig:
    """The ``model`` group together with ``lora``, with the sizes that the encoders' sources give.

    ``level`` is that of the log line about a translated configuration, which a run shows once. Raises
    :class:`ConfigError` with every problem found.
    """
    if "lora" in config.model:
        raise ConfigError("model.lora: set lora itself, not here")
    model = bind_model(config.model, level=level)
    lora = {key: value for key, value in (config.lora or {}).items() if value is not None}
    if lora and "r" not in lora:
        raise ConfigError(
            f"lora.{next(iter(lora))}: has no effect without lora.r, the rank; give it, or +lora=default"
        )
    if not config.random_weights:
        from src.model.encoders.source_settings import with_source_sizes  # imports transformers

        specs = {name: with_source_sizes(name, spec, level) for name, spec in model.config.encoders.items()}
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, encoders=specs))
    return dataclasses.replace(model, lora=bind_dataclass(LoraConfig, lora, "lora") if lora else None)
