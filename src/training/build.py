"""The model of a run: frozen LLM, front end, adapters of earlier runs, frozen parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src.audio.features import AudioFeatureExtractor
from src.common.errors import ConfigError
from src.common.log import get_logger
from src.model.alarm import AlarmModel
from src.model.build import build_feature_extractor, build_front_end
from src.model.checkpoints import load_adapters
from src.model.config import ModelConfig
from src.model.front_end import AudioFrontEnd
from src.model.llm import config_width, load_llm
from src.model.lora import add_lora, lora_tensors
from src.model.precision import hold_as_autocast
from src.training.config import LlmDtype, TrainConfig, bind_model_config

log = get_logger(__name__)


@dataclass(frozen=True)
class Built:
    """A model ready to train, its tokenizer, what computes its features, and its configuration."""

    model: AlarmModel
    tokenizer: Any
    extractor: AudioFeatureExtractor
    config: ModelConfig


def build_model(config: TrainConfig, bf16: bool = False) -> Built:
    """Load and assemble; the LLM in ``llm_dtype``, all else in float32. ``bf16``: the run uses autocast to bfloat16.

    Raises :class:`UserError` for weights that are missing or do not fit, :class:`ConfigError` for wrong names and
    when nothing is left to train.
    """
    model_config = bind_model_config(config)
    llm, tokenizer = load_llm(
        model_config.llm,
        dtype=_load_dtype(config.llm_dtype),
        random=config.random_weights,
        revision=model_config.llm_revision,
    )
    width = config_width(llm.config)
    if model_config.llm_embedding_dim not in (None, width):
        raise ConfigError(
            f"model.llm_embedding_dim is {model_config.llm_embedding_dim}, but {model_config.llm} has {width}"
        )
    front_end = build_front_end(model_config.config, width, encoder_weights=not config.random_weights)
    _load_pretrained(front_end, config)
    _freeze(front_end, config)
    if bf16 and config.llm_dtype in ("auto", "autocast"):
        hold_as_autocast(llm)
    if model_config.lora is not None:  # after the front end, whose initial weights are those of a run without
        add_lora(llm, model_config.lora, model_config.llm, model_config.llm_revision)
    if bf16:
        hold_as_autocast(front_end.audio_encoder)
    model = AlarmModel(front_end, llm, config.model_max_length)
    _report_trained(model, model_config.llm, config.eval_mode)
    if config.compile_layers:
        model.compile_layers()
    return Built(model, tokenizer, build_feature_extractor(model_config.config), model_config)


def _report_trained(model: AlarmModel, llm: str, eval_mode: bool) -> None:
    trained = sum(value.numel() for value in model.front_end.parameters() if value.requires_grad)
    lora = sum(value.numel() for value in lora_tensors(model.llm).values())
    added = f" and {lora:,} of LoRA layers in it" if lora else ""
    log.info("training %s parameters beside %s%s", f"{trained:,}", llm, added)
    if trained + lora == 0 and not eval_mode:
        raise ConfigError("nothing is left to train: unfreeze an adapter or the fusion, or give lora.r")


def _load_dtype(choice: LlmDtype) -> torch.dtype | str:
    """What the LLM is loaded in; ``"auto"`` is what its own files say."""
    if choice == "auto":
        return "auto"
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def _load_pretrained(front_end: AudioFrontEnd, config: TrainConfig) -> None:
    if not config.pretrained_adapters_dir or not config.pretrained_adapters_names:
        return
    names = list(config.pretrained_adapters_names)
    runs = [Path(config.pretrained_adapters_dir) / run for run in config.pretrained_adapters_names.values()]
    load_adapters(front_end, runs, names)
    log.info("adapters loaded: %s", ", ".join(f"{name} from {run}" for name, run in zip(names, runs, strict=True)))


def _freeze(front_end: AudioFrontEnd, config: TrainConfig) -> None:
    front_end.freeze_encoders()
    if config.freeze_adapters:
        front_end.freeze_adapters(config.frozen_adapters_names or None)
    if config.freeze_fusion:
        front_end.freeze_fusion()
