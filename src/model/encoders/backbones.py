"""Audio models of transformers as backbones: with random weights from a configuration, or trained from a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    ClapAudioModel,
    ClapAudioModelWithProjection,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from src.common.errors import UserError, error_text
from src.model.llm import resolve_source

MASKED_MODELS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
"""Waveform models whose padding can be masked exactly; clips of others run together only if they are equally long."""
WAVEFORM_MODELS = (*MASKED_MODELS, "wav2vec2-conformer")
AST_MODEL, CLAP_MODEL = "audio-spectrogram-transformer", "clap_audio_model"
MODEL_TYPES = (*WAVEFORM_MODELS, AST_MODEL, CLAP_MODEL)
"""``model_type`` of the configurations that a backbone can be built from."""


def load_backbone(config: Mapping[str, Any], source: str, revision: str | None, where: str) -> PreTrainedModel:
    """The trained backbone in float32, read by transformers; it renames what older versions of it have saved.

    Files in PyTorch's own format, which many of these models have only, are read without running code from them.
    Raises :class:`UserError` for files that are missing or do not fit ``config``.
    """
    bound, place = _bound(config), resolve_source(source)
    cls: Any = ClapAudioModel if bound.model_type == CLAP_MODEL else AutoModel
    # the names in a whole CLAP are those of this class
    whole = cls is ClapAudioModel and _model_type(place, revision) == "clap"
    cls = ClapAudioModelWithProjection if whole else cls
    # transformers would ask a service to convert such a repository, in a thread that outlives the call
    # (https://github.com/huggingface/transformers/issues/29500)
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        with _quiet():  # the heads and decoders of a whole model are reported as unexpected
            model, report = cls.from_pretrained(
                place,
                revision=revision,
                config=bound,
                dtype=torch.float32,
                output_loading_info=True,
                weights_only=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: {source} cannot be loaded ({error_text(error, 300)})") from error
    lacking = sorted(name for name in report["missing_keys"] if not name.endswith("masked_spec_embed"))
    if lacking:
        raise UserError(
            f"{where}: {source} lacks {len(lacking)} tensors of a {bound.model_type}: {', '.join(lacking[:3])}"
            f"{' …' if len(lacking) > 3 else ''}; expected the weights of the model in its config.json"
        )
    return model.audio_model if whole else model


def build_backbone(config: Mapping[str, Any]) -> PreTrainedModel:
    """transformers' model of a configuration with random weights. Raises ValueError for a type that is not known."""
    bound = _bound(config)
    return ClapAudioModel(bound) if bound.model_type == CLAP_MODEL else AutoModel.from_config(bound)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' warnings and progress bars off."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _model_type(place: str, revision: str | None) -> str | None:
    try:
        return PretrainedConfig.get_config_dict(place, revision=revision)[0].get("model_type")
    except (OSError, ValueError):
        return None


def _bound(config: Mapping[str, Any]) -> Any:
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(f"model_type: got {config.get('model_type')!r}, expected one of {', '.join(MODEL_TYPES)}")
    return AutoConfig.for_model(**config)
