"""Configuration of a trained model for transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from src.common.config import bind_dataclass
from src.model.checkpoints import MODEL_TYPE, Checkpoint, open_checkpoint
from src.model.config import ModelConfig
from src.model.llm import llm_config, load_tokenizer

AUDIO_TOKEN = "<|audio|>"
"""Placeholder of one audio embedding in a prompt. It is an added token of the processor's tokenizer; the language
model never reads its row."""


class NoCodeFiles:
    """For classes that are registered: saving never writes their code.

    transformers copies a class's file into saved folders once its Auto class has loaded it by an ``auto_map``.
    """

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Do nothing; transformers calls it."""


class AlarmConfig(NoCodeFiles, PreTrainedConfig):
    """Language model, audio embedder, and the placeholder of audio.

    Attributes:
        text_config: configuration of the language model.
        alarm: content of ``model`` in ``alarm_config.json``; a list of them for an ensemble.
        audio_token_id: id of :data:`AUDIO_TOKEN` in the processor's tokenizer.
        audio_dtype: of the audio embedder in vLLM.
    """

    model_type = MODEL_TYPE
    sub_configs = {"text_config": AutoConfig}
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    alarm: dict[str, Any] | list[dict[str, Any]] | None = None
    audio_token: str = AUDIO_TOKEN
    audio_token_id: int | None = None
    audio_dtype: str = "float32"

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the language model's configuration from its fields."""
        if isinstance(self.text_config, Mapping):
            fields = dict(self.text_config)  # for_model takes the type apart from the other fields
            self.text_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As of any configuration; see :meth:`from_dict`."""
        # from_dict gets the content of config.json only, and may have to look for more in its folder
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of any configuration.

        A folder that train.py writes contains the trained part only: the rest of the configuration then comes from
        its ``alarm_config.json`` and the language model that this names. Raises :class:`UserError` if one is missing.
        """
        if "alarm" not in config_dict and "name_or_path" in kwargs:
            complete = cls.of_checkpoints([open_checkpoint(kwargs["name_or_path"], kwargs.get("revision"))])
            config_dict = {**complete.to_dict(), **config_dict}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def of_checkpoints(cls, checkpoints: Sequence[Checkpoint]) -> AlarmConfig:
        """That of a checkpoint of any form, or of an ensemble.

        Raises :class:`UserError` if the language model is missing.
        """
        models = [each.config for each in checkpoints]
        model = models[0]
        text = llm_config(model.llm, model.llm_revision)
        tokenizer = with_audio_token(load_tokenizer(model.llm, model.llm_revision))
        return cls(
            text_config=text.to_dict(),
            alarm=joined_fields(models),
            audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
            bos_token_id=text.bos_token_id,
            eos_token_id=text.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            architectures=["AlarmForConditionalGeneration"],
        )

    @property
    def models(self) -> list[ModelConfig]:
        """Configurations of the checkpoints in this project's form; one, unless it is an ensemble.

        Raises :class:`ConfigError` if they cannot be bound.
        """
        return bind_models(self.alarm)


def bind_models(fields: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[ModelConfig]:
    """``alarm`` of a configuration or feature extractor. Raises :class:`ConfigError` with every problem found."""
    listed = fields if isinstance(fields, Sequence) else [fields or {}]
    return [bind_dataclass(ModelConfig, each, "alarm") for each in listed]


def joined_fields(models: Sequence[ModelConfig]) -> dict[str, Any] | list[dict[str, Any]]:
    """``alarm`` of checkpoints, as :func:`bind_models` reads it."""
    fields = [each.as_dict() for each in models]
    return fields[0] if len(fields) == 1 else fields


def with_audio_token(tokenizer: Any) -> Any:
    """The tokenizer with :data:`AUDIO_TOKEN` added, if it is not there yet; ids of other tokens stay the same."""
    # a special token is never split or normalised, whatever stands around it
    tokenizer.add_tokens([AUDIO_TOKEN], special_tokens=True)
    return tokenizer
