"""Configuration of the front end and of the whole model, as checked dataclasses.

The classes are bound by :func:`src.common.config.bind_dataclass`. Options that belong to another kind of adapter or
fusion than the chosen one are errors, so that no setting is accepted without effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from src.model.encoders.config import MOST_LAYERS, MOST_UNITS, EncoderSpec
from src.model.init import STD
from src.model.lora import LoraConfig

REQUIRED = object()
PINNED_LLMS = {"Qwen/Qwen3-4B-Thinking-2507": "768f209d9ea81521153ed38c47d515654e938aea"}
"""Commits of language models on the Hub, by id: ``model.llm=`` alone then chooses another one, unpinned."""

ADAPTER_OPTIONS: dict[str, dict[str, Any]] = {
    "downsampler_conformer": {
        "adapter_embedding_dim": REQUIRED,
        "use_downsampler": True,
        "downsampler_depth": 1,
        "norm_type": "batch",
        "use_conformer": True,
        "n_conf_layers": 1,
        "conformer_heads": 16,
        "conf_linear_dims": 4096,
        "conf_depth_kernel_size": 5,
        "conf_dropout": 0.1,
        "conf_conv_first": False,
    },
    "mlp": {"adapter_embedding_dim": REQUIRED, "hidden_dim": REQUIRED},
    "identity": {},
}

_RESAMPLER_OPTIONS: dict[str, Any] = {
    "main_encoder": REQUIRED,
    "conditional_encoders": REQUIRED,
    "num_latents": REQUIRED,
    "num_latent_channels": REQUIRED,
    "num_cross_attention_layers": 1,
    "num_cross_attention_heads": 4,
    "num_cross_attention_qk_channels": None,
    "num_cross_attention_v_channels": None,
    "cross_attention_widening_factor": 1,
    "first_cross_attention_layer_shared": False,
    "num_self_attention_blocks": 1,
    "num_self_attention_layers_per_block": 6,
    "num_self_attention_heads": 4,
    "num_self_attention_qk_channels": None,
    "num_self_attention_v_channels": None,
    "self_attention_widening_factor": 1,
    "first_self_attention_block_shared": True,
    "dropout": 0.0,
    "residual_dropout": 0.0,
    "init_scale": STD,
}

FUSION_OPTIONS: dict[str, dict[str, Any]] = {
    "sum": {},
    "crossattention": {
        "main_encoder": REQUIRED,
        "conditional_encoders": REQUIRED,
        "hidden_dim": 1024,
        "ffn_dims": 4096,
        "dropout": 0.1,
        "num_attention_heads": 16,
        "num_hidden_layers": 1,
        "use_skip_connection": False,
    },
    "perceiver": _RESAMPLER_OPTIONS,
    "multiperceiver": {**_RESAMPLER_OPTIONS, "conditional_embedding_dim": None},
}


def _settle_options(config: Any, kind: str, table: Mapping[str, Mapping[str, Any]], kind_key: str) -> None:
    """Fill the defaults of ``kind`` in place; raise ValueError for options that are missing or belong elsewhere."""
    if kind not in table:
        raise ValueError(f"unknown {kind_key} {kind!r}; known: {', '.join(sorted(table))}")
    problems = []
    for name in sorted({option for options in table.values() for option in options}):
        value = getattr(config, name)
        default = table[kind].get(name, REQUIRED)
        if name not in table[kind]:
            if value is not None and name != "adapter_embedding_dim":
                problems.append(f"{name} has no effect with {kind_key} {kind!r}")
        elif value is None and default is REQUIRED:
            problems.append(f"{name} is required with {kind_key} {kind!r}")
        elif value is None:
            object.__setattr__(config, name, default)
    problems += check_sizes({name: getattr(config, name) for name in table[kind]})
    if problems:
        raise ValueError("; ".join(problems))


def check_sizes(options: Mapping[str, Any]) -> list[str]:
    """Problems with whole numbers among ``options``: sizes below 1, negative counts, and what nobody can have meant.

    A configuration can come from anybody; ten million layers would keep a program busy for hours.
    """
    problems = []
    for name, value in options.items():
        counted = name.endswith(("layers", "blocks", "depth", "_per_block"))
        least, most = (0, MOST_LAYERS) if counted else (1, MOST_UNITS)
        values = value if isinstance(value, tuple) else (value,)
        wrong = [one for one in values if type(one) is int and not least <= one <= most]
        if wrong:
            problems.append(f"{name} is {wrong[0]}, expected {least} to {most}")
    return problems


@dataclass(frozen=True)
class LayerFusionConfig:
    """How the chosen encoder layers become one."""

    layer_fusion_type: Literal["weighted_average"] = "weighted_average"


@dataclass(frozen=True)
class AdapterConfig:
    """One encoder's adapter: which layers it reads and how they become LLM-sized frames.

    ``audio_encoder_layers`` may be left out (then the encoder's own ``layers``), ``encoder_embedding_dim`` too (the
    encoder knows its width; when given it must agree). Options below the common ones belong to one ``adapter_name``;
    ``ADAPTER_OPTIONS`` lists them with their defaults.
    """

    adapter_name: str
    audio_encoder_layers: tuple[int, ...] | None = None
    layer_fusion_config: LayerFusionConfig | None = field(default_factory=LayerFusionConfig)
    pre_average: bool = True
    trim_extra_padding: bool = True
    use_llm_proj: bool = True
    encoder_embedding_dim: int | None = None
    adapter_embedding_dim: int | None = None
    use_downsampler: bool | None = None
    downsampler_depth: int | None = None
    norm_type: Literal["batch", "layer"] | None = None
    use_conformer: bool | None = None
    n_conf_layers: int | None = None
    conformer_heads: int | None = None
    conf_linear_dims: int | None = None
    conf_depth_kernel_size: int | None = None
    conf_dropout: float | None = None
    conf_conv_first: bool | None = None
    hidden_dim: int | None = None

    def __post_init__(self) -> None:
        _settle_options(self, self.adapter_name, ADAPTER_OPTIONS, "adapter_name")
        if len(self.audio_encoder_layers or ()) > MOST_LAYERS:
            raise ValueError(f"audio_encoder_layers has {len(self.audio_encoder_layers or ())} entries")
        if self.audio_encoder_layers == ():
            raise ValueError("audio_encoder_layers is empty; name at least one encoder layer")
        if self.layer_fusion_config is None and len(self.audio_encoder_layers or ()) > 1:
            raise ValueError("layer_fusion_config is required when several audio_encoder_layers are used")
        if self.adapter_name == "mlp" and self.hidden_dim != self.adapter_embedding_dim:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} must equal adapter_embedding_dim {self.adapter_embedding_dim}"
            )
        if self.downsampler_depth is not None and self.downsampler_depth < 1:
            raise ValueError(f"downsampler_depth is {self.downsampler_depth}, expected at least 1")

    def body_options(self) -> dict[str, Any]:
        """Options of the chosen adapter body, by name."""
        return {name: getattr(self, name) for name in ADAPTER_OPTIONS[self.adapter_name]}


@dataclass(frozen=True)
class FusionConfig:
    """How the adapted streams become one sequence.

    The number of latents and the other resampler options are one value, or for ``multiperceiver`` one per
    conditional encoder, in the order of ``conditional_encoders``. ``FUSION_OPTIONS`` lists options and defaults.
    """

    fusion_type: str = "sum"
    main_encoder: str | None = None
    conditional_encoders: tuple[str, ...] | None = None
    hidden_dim: int | None = None
    ffn_dims: int | None = None
    dropout: float | tuple[float, ...] | None = None
    num_attention_heads: int | None = None
    num_hidden_layers: int | tuple[int, ...] | None = None
    use_skip_connection: bool | None = None
    num_latents: int | tuple[int, ...] | None = None
    num_latent_channels: int | tuple[int, ...] | None = None
    num_cross_attention_layers: int | tuple[int, ...] | None = None
    num_cross_attention_heads: int | tuple[int, ...] | None = None
    num_cross_attention_qk_channels: int | tuple[int | None, ...] | None = None
    num_cross_attention_v_channels: int | tuple[int | None, ...] | None = None
    cross_attention_widening_factor: int | tuple[int, ...] | None = None
    first_cross_attention_layer_shared: bool | tuple[bool, ...] | None = None
    num_self_attention_blocks: int | tuple[int, ...] | None = None
    num_self_attention_layers_per_block: int | tuple[int, ...] | None = None
    num_self_attention_heads: int | tuple[int, ...] | None = None
    num_self_attention_qk_channels: int | tuple[int | None, ...] | None = None
    num_self_attention_v_channels: int | tuple[int | None, ...] | None = None
    self_attention_widening_factor: int | tuple[int, ...] | None = None
    first_self_attention_block_shared: bool | tuple[bool, ...] | None = None
    conditional_embedding_dim: int | tuple[int, ...] | None = None
    residual_dropout: float | tuple[float, ...] | None = None
    init_scale: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _settle_options(self, self.fusion_type, FUSION_OPTIONS, "fusion_type")
        conditional = self.conditional_encoders or ()
        if self.main_encoder is not None and self.main_encoder in conditional:
            raise ValueError(f"main_encoder {self.main_encoder!r} is also one of the conditional_encoders")
        for name in FUSION_OPTIONS[self.fusion_type]:
            value = getattr(self, name)
            if not isinstance(value, tuple) or name == "conditional_encoders":
                continue
            if self.fusion_type == "perceiver":
                raise ValueError(f"{name} is a list; fusion_type 'perceiver' has one resampler and takes one value")
            if len(value) != len(conditional):
                raise ValueError(f"{name} has {len(value)} values for {len(conditional)} conditional_encoders")

    def options(self) -> dict[str, Any]:
        """Options of the chosen fusion, by name."""
        return {name: getattr(self, name) for name in FUSION_OPTIONS[self.fusion_type]}


@dataclass(frozen=True)
class FrontEndConfig:
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
        fusion = self.audio_fusion_config
        named = [*([fusion.main_encoder] if fusion.main_encoder else []), *(fusion.conditional_encoders or ())]
        unknown = [name for name in named if name not in self.encoders]
        if unknown:
            raise ValueError(
                f"audio_fusion_config names {', '.join(unknown)}, not among the encoders "
                f"{', '.join(sorted(self.encoders))}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: the frozen LLM beside a front end.

    ``llm`` is a folder or Hub id of any decoder-only causal LM; ``llm_embedding_dim`` may be left out (its config
    knows) and is checked when given. ``lora`` are layers added to the LLM and trained with the front end.
    """

    llm: str
    config: FrontEndConfig
    llm_revision: str | None = None
    llm_embedding_dim: int | None = None
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.llm_revision is None:
            object.__setattr__(self, "llm_revision", PINNED_LLMS.get(self.llm))

    def with_width(self, llm_dim: int) -> ModelConfig:
        """The same with the LLM's width written down."""
        return dataclasses.replace(self, llm_embedding_dim=llm_dim)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, as written to ``alarm_config.json``; binds back to the same configuration."""
        plain = _plain(dataclasses.asdict(self))
        if self.lora is None:  # unknown to earlier versions, which read such a checkpoint as well
            del plain["lora"]
        fusion = plain["config"]["audio_fusion_config"]
        for name in ("dropout", "residual_dropout", "init_scale"):  # so are these, of a resampler
            if fusion[name] == _RESAMPLER_OPTIONS[name] or (name != "dropout" and fusion[name] is None):
                del fusion[name]
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
