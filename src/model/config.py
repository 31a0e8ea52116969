"""Configuration of the audio embedder and of the whole model, as checked dataclasses.

The classes are bound by :func:`src.common.config.bind_dataclass`. Adapters, layer fusions and fusions are classes
that own the dataclass of their options; an option of another class than the chosen one is an error, so that no
setting is accepted without effect.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from src.common.modules import ModuleConfig, ModuleRegistry
from src.model.encoders.config import MOST_LAYERS, MOST_UNITS, EncoderSpec
from src.model.lora import LoraConfig
from src.prompts.reasoning import find_format

STD = 0.02
"""The published spread of new weights: right for widths of a thousand."""
PINNED_LLMS = {"Qwen/Qwen3-4B-Thinking-2507": "768f209d9ea81521153ed38c47d515654e938aea"}
"""Commits of language models on the Hub, by id: ``model.llm=`` alone then chooses another one, unpinned."""

ADAPTERS = ModuleRegistry(
    "adapter",
    "src.model.adapter:AdapterBody",
    {
        "downsampler_conformer": "src.model.adapter:DownsamplerConformer",
        "identity": "src.model.adapter:IdentityBody",
        "mlp": "src.model.adapter:MlpBody",
    },
)
LAYER_FUSIONS = ModuleRegistry(
    "layer fusion", "src.model.adapter:LayerFusion", {"weighted_average": "src.model.adapter:WeightedAverage"}
)
FUSIONS = ModuleRegistry(
    "fusion",
    "src.model.fusion:Fusion",
    {
        "crossattention": "src.model.fusion:CrossAttentionFusion",
        "multiperceiver": "src.model.perceiver:MultiPerceiverFusion",
        "perceiver": "src.model.perceiver:PerceiverFusion",
        "sum": "src.model.fusion:SumFusion",
    },
)


def check_sizes(options: Mapping[str, Any]) -> list[str]:
    """Problems with whole numbers among ``options``: sizes below 1, negative counts, and what nobody can have meant.

    A configuration can come from anybody; ten million layers would keep a program busy for hours.
    """
    problems = []
    for name, value in options.items():
        counted = name.endswith(("layers", "blocks", "depth", "_per_block"))
        least, most = (0, MOST_LAYERS) if counted else (1, MOST_UNITS)
        values = value if isinstance(value, tuple) else (value,)
        # type() and not isinstance(): True and False are ints
        wrong = [one for one in values if type(one) is int and not least <= one <= most]
        if wrong:
            problems.append(f"{name} is {wrong[0]}, expected {least} to {most}")
    return problems


def _own_options(config: ModuleConfig, common: type[ModuleConfig]) -> dict[str, Any]:
    """Values of the options that the chosen class adds to those that all have."""
    shared = {one.name for one in dataclasses.fields(common)}
    return {one.name: getattr(config, one.name) for one in dataclasses.fields(config) if one.name not in shared}


@dataclass(frozen=True)
class LayerFusionConfig(ModuleConfig):
    """How the chosen encoder layers become one."""

    registry = LAYER_FUSIONS
    name_key = "layer_fusion_type"

    layer_fusion_type: str = "weighted_average"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(ModuleConfig):
    """One encoder's adapter: which layers it reads and how they become LLM-sized frames.

    ``audio_encoder_layers`` may be left out (then the encoder's own ``layers``), ``encoder_embedding_dim`` too (the
    encoder knows its width; when given it must agree). ``adapter_name`` chooses a class, whose ``Config`` derives
    from this one and adds its options.
    """

    registry = ADAPTERS
    name_key = "adapter_name"

    adapter_name: str
    audio_encoder_layers: tuple[int, ...] | None = None
    layer_fusion_config: LayerFusionConfig | None = field(default_factory=LayerFusionConfig)
    pre_average: bool = True
    trim_extra_padding: bool = True
    use_llm_proj: bool = True
    encoder_embedding_dim: int | None = None
    adapter_embedding_dim: int | None = None

    def __post_init__(self) -> None:
        problems = check_sizes({**self.options(), "adapter_embedding_dim": self.adapter_embedding_dim})
        if len(self.audio_encoder_layers or ()) > MOST_LAYERS:
            problems.append(f"audio_encoder_layers has {len(self.audio_encoder_layers or ())} entries")
        if self.audio_encoder_layers == ():
            problems.append("audio_encoder_layers is empty; name at least one encoder layer")
        if self.layer_fusion_config is None and len(self.audio_encoder_layers or ()) > 1:
            problems.append("layer_fusion_config is required when several audio_encoder_layers are used")
        if problems:
            raise ValueError("; ".join(problems))

    def for_rate(self, name: str, measure: Callable[[], float]) -> AdapterConfig:
        """The settings for an encoder ``name``, whose frames a second ``measure`` gives; here they are the same."""
        return self

    def options(self) -> dict[str, Any]:
        """Options of the chosen adapter's own, by name."""
        return _own_options(self, AdapterConfig)


@dataclass(frozen=True, kw_only=True)
class FusionConfig(ModuleConfig):
    """How the adapted streams become one sequence: ``fusion_type`` chooses a class, whose ``Config`` derives from
    this one and adds its options."""

    registry = FUSIONS
    name_key = "fusion_type"

    fusion_type: str = "sum"

    def __post_init__(self) -> None:
        if problems := check_sizes(self.options()):
            raise ValueError("; ".join(problems))

    def options(self) -> dict[str, Any]:
        """Options of the chosen fusion's own, by name."""
        return _own_options(self, FusionConfig)

    def encoder_names(self) -> tuple[str, ...]:
        """Encoders that the options name, to be checked."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ConditionedFusionConfig(FusionConfig):
    """Options of fusions that add ``conditional_encoders`` to the stream of ``main_encoder``.

    Options that are lists have one value per conditional encoder, in their order.
    """

    main_encoder: str
    conditional_encoders: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.main_encoder in self.conditional_encoders:
            raise ValueError(f"main_encoder {self.main_encoder!r} is also one of the conditional_encoders")
        for name, value in self.options().items():
            if isinstance(value, tuple) and len(value) != len(self.conditional_encoders):
                raise ValueError(
                    f"{name} has {len(value)} values for {len(self.conditional_encoders)} conditional_encoders"
                )

    def encoder_names(self) -> tuple[str, ...]:
        """See :meth:`FusionConfig.encoder_names`."""
        return self.main_encoder, *self.conditional_encoders


@dataclass(frozen=True)
class AudioEmbedderConfig:
    """Audio side of the model: encoders, one adapter each, and the fusion.

    ``mask_padding`` (default) makes an item's embedding independent of its batch; false repeats the published
    behaviour, where a shorter item sees its padding. ``frozen_adapters_drift`` repeats another published one: frozen
    adapters stay in train mode and their batch norms go on updating. ``init_std`` is the spread of new linear and
    convolution weights; the published one suits widths of a thousand and leaves narrow models nearly silent.
    """

    encoders: dict[str, EncoderSpec]
    audio_adapter_config: dict[str, AdapterConfig]
    audio_fusion_config: FusionConfig = field(default_factory=FusionConfig)
    use_explicit_audio_tokens: bool = False
    mask_padding: bool = True
    frozen_adapters_drift: bool = False
    init_std: float = STD

    def layers(self, name: str) -> tuple[int, ...]:
        """Encoder layers that the adapter of encoder ``name`` reads."""
        return self.audio_adapter_config[name].audio_encoder_layers or self.encoders[name].layers

    def __post_init__(self) -> None:
        if self.init_std <= 0:
            raise ValueError(f"init_std is {self.init_std}, expected more than 0")
        if not self.encoders:
            raise ValueError("encoders is empty; name at least one encoder")
        if set(self.encoders) != set(self.audio_adapter_config):
            raise ValueError(
                f"encoders are {', '.join(sorted(self.encoders))} but adapters are given for "
                f"{', '.join(sorted(self.audio_adapter_config)) or 'none'} (audio_adapter_config)"
            )
        unknown = [name for name in self.audio_fusion_config.encoder_names() if name not in self.encoders]
        if unknown:
            raise ValueError(
                f"audio_fusion_config names {', '.join(unknown)}, not among the encoders "
                f"{', '.join(sorted(self.encoders))}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: the frozen LLM beside an audio embedder.

    ``llm`` is a folder or Hub id of any decoder-only causal LM; ``llm_embedding_dim`` may be left out (its config
    knows) and is checked when given. ``reasoning`` is the format of its reasoning, where its chat template does not
    show it. ``lora`` are layers added to the LLM and trained with the audio embedder.
    """

    llm: str
    config: AudioEmbedderConfig
    llm_revision: str | None = None
    llm_embedding_dim: int | None = None
    lora: LoraConfig | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        if self.llm_revision is None:
            object.__setattr__(self, "llm_revision", PINNED_LLMS.get(self.llm))
        if self.reasoning is not None:
            find_format(self.reasoning)  # an unknown one is an error now, not after the models are loaded

    def with_width(self, llm_dim: int) -> ModelConfig:
        """The same with the LLM's width written down."""
        return dataclasses.replace(self, llm_embedding_dim=llm_dim)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, as written to ``alarm_config.json``; binds back to the same configuration."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists, as in the file
        plain["config"]["encoders"] = {name: spec.as_dict() for name, spec in self.config.encoders.items()}
        # Keys that earlier versions do not know are left out where they say nothing, so that those versions read it.
        for name in ("lora", "reasoning"):
            if plain[name] is None:
                del plain[name]
        for adapter in plain["config"]["audio_adapter_config"].values():
            if adapter.get("frame_rate") is None:
                adapter.pop("frame_rate", None)
        fusion = plain["config"]["audio_fusion_config"]
        defaults = {one.name: one.default for one in dataclasses.fields(self.config.audio_fusion_config)}
        for name in ("dropout", "residual_dropout", "init_scale"):
            if name in fusion and fusion[name] == defaults[name]:
                del fusion[name]
        return plain
