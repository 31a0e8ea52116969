"""What ``train.py`` is told, checked before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from src.common.config import bind_dataclass
from src.common.errors import ConfigError
from src.common.log import get_logger
from src.dataset.corpora import expand_mixture
from src.dataset.mixture import DatasetConfig
from src.dataset.sampler import Grouping
from src.model.config import ModelConfig
from src.model.lora import LoraConfig
from src.model.published_config import bind_model
from src.training.removed_arguments import translate_removed

log = get_logger(__name__)
DEFAULT_SEED = 42

LlmDtype = Literal["auto", "autocast", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run.

    Attributes:
        dataset: training rows and evaluation sets.
        model: the ``model`` group; bound by the model room.
        training_args: passed on to transformers' ``TrainingArguments``.
        seed: of initial weights, data order and dropout; ``training_args.seed`` is the same one.
        alternative_data_dir: folder that takes the place of the repository's ``data``; relative to the repository.
        eval_mode: only evaluate, with the weights that ``resume_from_checkpoint`` or ``model.from_pretrained`` names.
        pretrained_adapters_dir: folder with adapters to load: ``ENCODER.pth`` files, or checkpoints.
        pretrained_adapters_names: which of them, by encoder name; or encoder name -> run in that folder; none: all.
        freeze_adapters: stop training all adapters, or those of ``frozen_adapters_names``.
        frozen_adapters_names: which adapters to freeze.
        freeze_fusion: stop training the fusion.
        lora: layers added to the LLM and trained too (:class:`src.model.lora.LoraConfig`); none while ``r`` is null.
        resume_from_checkpoint: a checkpoint folder; true for the last whole one in the output folder, if any.
        llm_dtype: how the frozen LLM is stored. auto: as its own files say, as in the published training; autocast:
            in float32, and its linear layers as ``training_args.bf16`` computes with them; bfloat16 or float32: the
            whole model.
        model_max_length: positions after which an item is cut, audio included; none: what the tokenizer allows.
        length_grouping: within_step: an optimizer step holds clips as drawn, its micro-batches clips of like length;
            across_steps: the steps do, too; none: as drawn.
        max_batch_positions: cut a step into as few micro-batches as hold this many positions each, padding included,
            in place of ``gradient_accumulation_steps`` of ``per_device_train_batch_size`` clips.
        not_finite: stop at a loss or gradient that is not finite, or skip the step and count it.
        compile_layers: compile the transformer layers of LLM and encoders.
        sample_generations: rows with and as many without context to answer at each save; true means five (none
            without evaluation sets), false none.
        sample_tokens: tokens of such an answer at most.
        bertscore_model: local folder or Hub id of the model that scores these answers; none: no BERTScore.
        encoder_cache_mb: megabytes for keeping the frozen encoders' states of each clip between epochs; 0: off.
        encoder_cache_dir: folder in which later runs find these states again.
        random_weights: frozen parts from their configuration alone, untrained: for measurements and tests.
        prompts: prompt set that is kept with the checkpoint; its tags stand around the audio of models with explicit
            audio tokens. None: the usual one of the language model.
        check_config: stop after checking the configuration.
    """

    dataset: DatasetConfig
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
    llm_dtype: LlmDtype = "auto"
    model_max_length: int | None = 4096
    length_grouping: Grouping = "within_step"
    max_batch_positions: int | None = None
    not_finite: Literal["stop", "skip"] = "stop"
    compile_layers: bool = False
    sample_generations: bool | int = True
    sample_tokens: int = 512
    bertscore_model: str | None = None
    encoder_cache_mb: int = 0
    encoder_cache_dir: str | None = None
    random_weights: bool = False
    prompts: dict[str, Any] | None = None
    check_config: bool = False

    def __post_init__(self) -> None:
        if self.frozen_adapters_names and not self.freeze_adapters:
            raise ValueError("frozen_adapters_names has no effect unless freeze_adapters is true")
        if self.pretrained_adapters_names and not self.pretrained_adapters_dir:
            raise ValueError("pretrained_adapters_names has no effect without pretrained_adapters_dir, their folder")
        if self.max_batch_positions is not None and self.max_batch_positions < 1:
            raise ValueError(f"max_batch_positions is {self.max_batch_positions}, expected at least 1, or null")
        if self.model_max_length is not None and self.model_max_length < 1:
            raise ValueError(f"model_max_length is {self.model_max_length}, expected at least 1")
        if self.llm_dtype == "autocast" and self.training_args.get("bf16") is not True:
            raise ValueError(
                "llm_dtype=autocast stores linear layers as training_args.bf16=true computes with them; bf16 is off"
            )
        if self.encoder_cache_dir and not self.encoder_cache_mb:
            raise ValueError("encoder_cache_dir has no effect unless encoder_cache_mb is above 0")
        if self.sample_generations is True and not self.dataset.eval:
            object.__setattr__(self, "sample_generations", False)
        if self.sample_generations and not self.dataset.eval:
            raise ValueError("sample_generations answers rows of the evaluation sets, and dataset.eval has none")
        if self.bertscore_model and not self.sample_generations:
            raise ValueError("bertscore_model scores sample answers, and sample_generations is off")
        if self.eval_mode and not self.dataset.eval:
            raise ValueError("eval_mode needs evaluation sets, and dataset.eval has none")
        if not self.eval_mode and not self.dataset.train.rows:
            raise ValueError("dataset.train.rows is empty, at least one row is needed")


def bind_train_config(config: Mapping[str, Any]) -> TrainConfig:
    """Check a composed configuration; data and model may be in the published form.

    ``training_args`` are then those of the installed transformers, and ``seed`` is the run's. Raises
    :class:`ConfigError` with every problem found.
    """
    dataset, given = config.get("dataset"), config.get("training_args")
    if isinstance(dataset, Mapping):
        config = {**config, "dataset": expand_mixture(dataset)}
    if isinstance(given, Mapping):
        translated, notes = translate_removed(given)
        if notes:
            log.info("training_args: %s", "; ".join(notes))
        config = {**config, "training_args": translated, "seed": _one_seed(config.get("seed"), given.get("seed"))}
    bound = bind_dataclass(TrainConfig, config, "config")
    bind_model_config(bound, logging.INFO)
    if not bound.training_args.get("output_dir"):
        raise ConfigError("training_args.output_dir: missing, give the folder of this run")
    return bound


def _one_seed(own: Any, published: Any) -> Any:
    """The seed that ``seed`` and ``training_args.seed`` give together; a default yields to what was given."""
    if own is None:
        return DEFAULT_SEED if published is None else published
    if published not in (None, DEFAULT_SEED, own):
        raise ConfigError(f"seed is {own} and training_args.seed {published}; they are one setting, give one of them")
    return own


def bind_model_config(config: TrainConfig, level: int = logging.DEBUG) -> ModelConfig:
    """The ``model`` group, with what ``lora`` adds to it.

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
    return dataclasses.replace(model, lora=bind_dataclass(LoraConfig, lora, "lora") if lora else None)
