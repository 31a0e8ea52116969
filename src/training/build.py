"""The model of a run: frozen LLM, front end, adapters of earlier runs, frozen parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src.audio.features import AudioFeatureExtractor
from src.common.errors import ConfigError
from src.common.log import get_logger
from src.model.adapter_files import find_adapter, load_adapters
from src.model.alarm import AlarmModel
from src.model.build import build_feature_extractor, build_front_end
from src.model.checkpoints import Checkpoint, load_into, open_checkpoint
from src.model.config import ModelConfig
from src.model.front_end import AudioFrontEnd
from src.model.llm import config_width, llm_width, load_chat_tokenizer, load_llm
from src.model.lora import add_lora, lora_tensors
from src.model.lora_files import restore_lora
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

    With ``model.from_pretrained`` the front end's configuration and its first weights are those of a checkpoint.
    Raises :class:`UserError` for weights that are missing or do not fit, :class:`ConfigError` for wrong names and
    when nothing is left to train.
    """
    model_config = bind_model_config(config)
    start = _open_start(config)
    if start is not None:
        model_config = _configured_as(start, model_config)
    adapters = _find_adapters(config, model_config)
    load_chat_tokenizer(model_config.llm, model_config.llm_revision)  # its template is checked before weights load
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
    whole = None if start is None or config.random_weights or not start.whole else start
    front_end = build_front_end(
        model_config.config, width, not config.random_weights, None if whole is None else whole.encoder
    )
    if bf16 and config.llm_dtype in ("auto", "autocast"):
        hold_as_autocast(llm)
    if model_config.lora is not None:  # after the front end, whose initial weights are those of a run without
        add_lora(llm, model_config.lora, model_config.llm, model_config.llm_revision)
    if start is not None:
        load_into(front_end, start.state(), front_end.trained_state(), start.name)
        if start.lora_folder is not None:
            restore_lora(llm, start.lora(), start.name)
        log.info("started from %s", start.name)
    if adapters:
        load_adapters(front_end, list(adapters.values()), list(adapters))
        log.info("adapters loaded: %s", ", ".join(f"{name} from {source}" for name, source in adapters.items()))
    _freeze(front_end, config)
    if bf16:
        hold_as_autocast(front_end.audio_encoder)
    model = AlarmModel(front_end, llm, config.model_max_length or int(tokenizer.model_max_length))
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
    """Dtype in which the LLM is loaded; ``"auto"`` is what its own files say."""
    if choice == "auto":
        return "auto"
    return torch.bfloat16 if choice == "bfloat16" else torch.float32


def _open_start(config: TrainConfig) -> Checkpoint | None:
    name = config.model.get("from_pretrained")
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise ConfigError(f"model.from_pretrained: got {name!r}, expected a checkpoint folder or a Hub id")
    return open_checkpoint(name)


def _configured_as(start: Checkpoint, config: ModelConfig) -> ModelConfig:
    """The model of a run that starts from a checkpoint: its front end and LoRA, on the LLM that the run names."""
    width = llm_width(config.llm, config.llm_revision)
    if width != start.config.llm_embedding_dim:
        raise ConfigError(
            f"model.from_pretrained={start.name} gives embeddings {start.config.llm_embedding_dim} wide, "
            f"{config.llm} takes {width}: set model.llm to {start.config.llm}, or to another of its width"
        )
    if config.config != start.config.config:
        log.info("model.from_pretrained: the front end is configured as %s was, not as model=NAME says", start.name)
    if config.llm != start.config.llm:
        log.warning("model.from_pretrained: %s was trained for %s, not %s", start.name, start.config.llm, config.llm)
    return dataclasses.replace(
        config,
        config=start.config.config,
        llm_embedding_dim=width,
        lora=config.lora or start.config.lora,
    )


def _find_adapters(config: TrainConfig, model_config: ModelConfig) -> dict[str, str | Path]:
    """Encoder name -> ``.pth`` file or checkpoint of its adapter, looked up before anything heavy is loaded."""
    if not config.pretrained_adapters_dir:
        return {}
    directory, names = config.pretrained_adapters_dir, config.pretrained_adapters_names
    if isinstance(names, dict):
        return {name: Path(directory) / run for name, run in names.items()}
    known = list(model_config.config.encoders)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        listed = ", ".join(sorted(known))
        raise ConfigError(f"pretrained_adapters_names: unknown {', '.join(unknown)}; known: {listed}")
    chosen = known if names is None else names
    return {name: find_adapter(directory, name) for name in chosen}


def _freeze(front_end: AudioFrontEnd, config: TrainConfig) -> None:
    front_end.freeze_encoders()
    if config.freeze_adapters:
        front_end.freeze_adapters(config.frozen_adapters_names)
    if config.freeze_fusion:
        front_end.freeze_fusion()
