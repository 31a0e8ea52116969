"""Model configurations in the published form, read into :class:`ModelConfig` and written back.

The published form names encoders and adapters in lists (``audio_encoder_configs``, ``audio_adapter_configs``). It is
used in two places: in model YAML (``llm, llm_embedding_dim, from_pretrained, feature_extractor_configs, config``) and
in the ``config.json`` of a checkpoint, which has the entries of ``config`` next to the language model's own.

An option that the published code reads without effect (of another adapter or fusion than the chosen one) has none
here. One that cannot be expressed is an error that names it.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import yaml

from src.common.config import CONFIG_DIR, bind_dataclass
from src.common.errors import ConfigError, name_hint
from src.common.log import get_logger
from src.model.config import LAYER_FUSIONS, AdapterConfig, AudioEmbedderConfig, FusionConfig, ModelConfig
from src.model.encoders.config import EncoderSpec, encoder_spec

log = get_logger(__name__)

ENCODERS_KEY, ADAPTERS_KEY = "audio_encoder_configs", "audio_adapter_configs"
CONFIG_KEYS = (
    *(ENCODERS_KEY, ADAPTERS_KEY, "audio_fusion_config", "audio_postprocessing_config"),
    *("audio_sep_d_embed", "use_explicit_audio_tokens"),
)
"""Keys of the published form about the audio side."""
EXTRA_KEYS = ("mask_padding", "frozen_adapters_drift", "init_std")
"""Settings that the published code does not have; read where they stand next to the published ones."""

_TOP_KEYS = (
    *("llm", "llm_revision", "llm_embedding_dim", "reasoning"),
    *("from_pretrained", "feature_extractor_configs", "config"),
)
_SPEC_KEYS = ("features", "architecture", "layers", "weights")
_SOURCE_KEYS = ("source", "revision", "chunk_seconds")
"""Keys of an item ``encoder_name: hf``, which the published code does not have."""
CLASS_KEY = "encoder_class"
"""Class of an encoder, by short name or import path, where its features do not say it; ``encoder_name`` is the name
that the encoder has in the model."""
# Defaults of the published classes, which differ from those here.
_ADAPTER_DEFAULTS: dict[str, dict[str, Any]] = {
    "downsampler_conformer": {"norm_type": "layer"},
    "mlp": {"hidden_dim": 1024},
    "identity": {},
}
_COMMON_ADAPTER = ("encoder_name", "llm_embedding_dim", *(field.name for field in fields(AdapterConfig)))
_CONDITIONS = {"main_encoder": "whisper", "conditional_encoders": ["w2vbert", "muq", "sslam"]}
_FUSION_DEFAULTS: dict[str, dict[str, Any]] = {
    "sum": {},
    "crossattention": {**_CONDITIONS, "num_hidden_layers": [2, 2, 2]},
    "perceiver": {**_CONDITIONS, "num_latents": 24, "num_latent_channels": 1024},
    "multiperceiver": {**_CONDITIONS, "num_latents": [20, 20, 20], "num_latent_channels": 1024},
}
# Saves memory and leaves the numbers as they are; not done here.
_MEMORY_ONLY = ("activation_checkpointing", "activation_offloading")
_ENCODER_RATES = {"whisper": 100, "w2vbert": 50, "sslam": 100, "muq": 25}
"""``frame_rate`` of the published encoders: feature frames a second, and states of MuQ, which reads samples."""
_FEATURES_DIM = {"whisper": -1, "w2vbert": -2, "sslam": -2, "muq": -1}
"""Dimension of the features that is time (``feature_extractor_time_dim``)."""
_SSLAM_NORM = {"norm_mean": -4.268, "norm_std": 4.569}


def is_published(mapping: Mapping[str, Any]) -> bool:
    """Whether a model mapping (of YAML or of a ``config.json``) is in the published form."""
    inner = mapping.get("config")
    return any(
        key in part for part in (mapping, inner) if isinstance(part, Mapping) for key in (ENCODERS_KEY, ADAPTERS_KEY)
    )


def bind_model(mapping: Mapping[str, Any], where: str = "model", level: int = logging.INFO) -> ModelConfig:
    """A model mapping in either form as :class:`ModelConfig`; a log line of ``level`` says when it was translated.

    ``from_pretrained``, a key of training and none of the model, is left out. Raises :class:`ConfigError` with every
    problem found.
    """
    if is_published(mapping):
        config = model_config_from_published(mapping, where)
        log.log(level, "%s: in the published form; read as %s", where, describe(config))
        return config
    own = {
        key: value for key, value in mapping.items() if key not in ("from_pretrained", "feature_extractor_configs")
    }
    inner = own.get("config")
    if isinstance(inner, Mapping):  # published keys that may be set beside a configuration of ours
        problems: list[str] = []
        _check_rest(inner, own.get("llm_embedding_dim"), f"{where}.config", problems)
        if problems:
            raise ConfigError("; ".join(problems))
        own["config"] = {
            key: value
            for key, value in inner.items()
            if key not in ("audio_postprocessing_config", "audio_sep_d_embed")
        }
    return bind_dataclass(ModelConfig, own, where)


def describe(config: ModelConfig) -> str:
    """One line: encoders with their layers, adapters, fusion."""
    audio_embedder = config.config
    parts = [
        f"{name} (layers {', '.join(map(str, audio_embedder.layers(name)))}; {adapter.adapter_name})"
        for name, adapter in sorted(audio_embedder.audio_adapter_config.items())
    ]
    return f"{', '.join(parts)}, fusion {audio_embedder.audio_fusion_config.fusion_type}"


def model_config_from_published(
    mapping: Mapping[str, Any],
    where: str,
    llm: str | None = None,
    encoders: Mapping[str, EncoderSpec] | None = None,
) -> ModelConfig:
    """The published form as :class:`ModelConfig`, equal to that of ``src/configs/model/*.yaml``.

    Reads either form of mapping: model YAML (audio keys below ``config``), or a checkpoint's ``config.json`` (audio
    keys next to the language model's own, of which ``hidden_size`` is read and all others are skipped). Encoders are
    those of ``src/configs/model/encoder/NAME.yaml``; an item of ``audio_encoder_configs`` may also have ``features``,
    ``architecture``, ``layers`` and ``weights`` as those files do (the published code skips them), which is how
    :func:`published_from_model_config` writes encoders of other sizes.

    ``llm`` is the language model where the mapping names none (as in a ``config.json``); ``encoders`` come before the
    shipped ones. Raises :class:`ConfigError` with all problems, each with its key below ``where``: unknown encoders,
    adapters, fusions or options, values that contradict each other, and what cannot be expressed.
    """
    flat = "config" not in mapping
    problems: list[str] = []
    if not flat:
        _unknown_keys(mapping, _TOP_KEYS, where, problems)
    inner = mapping if flat else mapping["config"]
    inner_where = where if flat else f"{where}.config"
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{inner_where}: got {type(inner).__name__}, expected a mapping")
    if not flat:
        _unknown_keys(inner, (*CONFIG_KEYS, *EXTRA_KEYS), inner_where, problems)
    for key in (ENCODERS_KEY, ADAPTERS_KEY):
        if not isinstance(inner.get(key), Sequence) or isinstance(inner[key], str) or not inner[key]:
            problems.append(f"{inner_where}.{key}: got {inner.get(key)!r}, expected a list with an item per encoder")
    if problems:
        raise ConfigError("; ".join(problems))
    width = (
        mapping.get("llm_embedding_dim") if not flat else mapping.get("hidden_size", inner.get("audio_sep_d_embed"))
    )
    specs = _encoders(mapping, inner, encoders or {}, (where, inner_where), problems)
    adapters = _adapters(inner[ADAPTERS_KEY], specs, width, f"{inner_where}.{ADAPTERS_KEY}", problems)
    fusion = _fusion(inner.get("audio_fusion_config"), adapters, specs, width, inner_where, problems)
    _check_rest(inner, width, inner_where, problems)
    if not (mapping.get("llm") or llm):
        problems.append(f"{where}.llm: missing, the language model's folder or Hub id")
    if problems:
        raise ConfigError("; ".join(problems))
    audio_embedder = {
        "encoders": specs,
        "audio_adapter_config": adapters,
        "audio_fusion_config": fusion,
        "use_explicit_audio_tokens": inner.get("use_explicit_audio_tokens", False),
        **{key: inner[key] for key in EXTRA_KEYS if key in inner},
    }
    plain = {
        "llm": mapping.get("llm") or llm,
        "llm_revision": mapping.get("llm_revision"),
        "reasoning": mapping.get("reasoning"),
        "llm_embedding_dim": width,
        "config": {**audio_embedder, "encoders": {name: spec.as_dict() for name, spec in specs.items()}},
    }
    return bind_dataclass(ModelConfig, plain, where)


def own_modules(config: ModelConfig) -> list[str]:
    """Encoders, adapters, layer fusions and fusions of a configuration that the published code does not have."""
    audio_embedder = config.config
    adapters = audio_embedder.audio_adapter_config.values()
    layer_fusions = [adapter.layer_fusion_config for adapter in adapters if adapter.layer_fusion_config is not None]
    used: list[tuple[Any, Container[str]]] = [
        *((spec, _ENCODER_RATES) for spec in audio_embedder.encoders.values()),
        *((adapter, _ADAPTER_DEFAULTS) for adapter in adapters),
        *((one, LAYER_FUSIONS) for one in layer_fusions),
        (audio_embedder.audio_fusion_config, _FUSION_DEFAULTS),
    ]
    return [one.module_name for one, known in used if one.module_name not in known]


def published_from_model_config(config: ModelConfig) -> dict[str, Any]:
    """The published form of a configuration, as model YAML; its ``config`` are the audio keys of a ``config.json``.

    What the published code does not have is written only where it is not the default here (``mask_padding``,
    ``init_std``, encoders that are not the shipped ones), in keys that the published code skips; LoRA is not.
    Reading it back gives an equal configuration. Raises :class:`ConfigError` for what the published code cannot
    build.
    """
    width, audio_embedder = config.llm_embedding_dim, config.config
    if own := own_modules(config):
        raise ConfigError(f"model.config: the published code has no {', '.join(own)}")
    if width is None:
        raise ConfigError("model.llm_embedding_dim: missing; the published form states the width")
    names = list(audio_embedder.encoders)
    encoder_items = [{"encoder_name": name, **_spec_extras(name, audio_embedder.encoders[name])} for name in names]
    adapters = [
        _adapter_item(name, audio_embedder.audio_adapter_config[name], audio_embedder, width)
        for name in audio_embedder.audio_adapter_config
    ]
    inner: dict[str, Any] = {
        "use_explicit_audio_tokens": audio_embedder.use_explicit_audio_tokens,
        "audio_sep_d_embed": width,
        ENCODERS_KEY: encoder_items,
        ADAPTERS_KEY: adapters,
        "audio_fusion_config": _fusion_item(audio_embedder, width),
        "audio_postprocessing_config": {"postprocessing_type": "identity"},
    }
    inner |= {  # a dataclass keeps its defaults as class attributes
        key: getattr(audio_embedder, key)
        for key in EXTRA_KEYS
        if getattr(audio_embedder, key) != getattr(AudioEmbedderConfig, key)
    }
    return {
        "llm": config.llm,
        "feature_extractor_configs": [{"encoder_name": name} for name in names],
        "from_pretrained": None,
        "llm_embedding_dim": width,
        "config": inner,
    }


@cache
def shipped_encoders() -> dict[str, EncoderSpec]:
    """The complete specifications of ``src/configs/model/encoder``, by name; one without sizes is left out."""
    contents = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((CONFIG_DIR / "model" / "encoder").glob("*.yaml"))
    }
    return {name: encoder_spec(name, content) for name, content in contents.items() if "architecture" in content}


def _width_after(adapter: Mapping[str, Any], spec: EncoderSpec, llm_dim: Any) -> Any:
    """Width of the stream that an adapter gives."""
    if adapter.get("use_llm_proj", True):
        return llm_dim
    if adapter["adapter_name"] == "identity":
        return spec.bound_architecture().width
    return adapter["adapter_embedding_dim"]


# Encoders


def _encoders(
    mapping: Mapping[str, Any],
    inner: Mapping[str, Any],
    given: Mapping[str, EncoderSpec],
    wheres: tuple[str, str],
    problems: list[str],
) -> dict[str, EncoderSpec]:
    extractors = {}
    own_names = {item.get("encoder_name") for item in inner[ENCODERS_KEY] if isinstance(item, Mapping)}
    for index, item in enumerate(mapping.get("feature_extractor_configs") or []):
        path = f"{wheres[0]}.feature_extractor_configs[{index}]"
        named = isinstance(item, Mapping) and item.get("encoder_name") in own_names
        if name := item["encoder_name"] if named else _encoder_name(item, path, given, problems):
            extractors[name] = (item, path)
    specs: dict[str, EncoderSpec] = {}
    for index, item in enumerate(inner[ENCODERS_KEY]):
        path = f"{wheres[1]}.{ENCODERS_KEY}[{index}]"
        name = _encoder_name(item, path, given, problems)
        if name is None:
            continue
        if name in specs:
            problems.append(f"{path}.encoder_name: {name} is named twice")
        if extractors and name not in extractors:
            problems.append(f"{wheres[0]}.feature_extractor_configs: {name} is missing; its encoder needs features")
        own = {key: item[key] for key in (*_SPEC_KEYS, *_SOURCE_KEYS) if key in item}
        shipped = given.get(name) or shipped_encoders().get(name)
        if CLASS_KEY in item or "source" in item:
            own["encoder_name"] = item.get(CLASS_KEY, name)
        try:
            spec = encoder_spec(path, {**(shipped.as_dict() if shipped else {}), **own})
        except ConfigError as error:
            problems.append(str(error))
            continue
        specs[name] = _with_chunks(item, path, *extractors.get(name, ({}, path)), spec, problems)
    return specs


def _encoder_name(item: Any, path: str, given: Mapping[str, EncoderSpec], problems: list[str]) -> str | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("encoder_name"), str):
        problems.append(f"{path}: got {item!r}, expected a mapping with encoder_name")
        return None
    name: str = item["encoder_name"]
    known = {**shipped_encoders(), **given}
    if name not in known and not all(key in item for key in _SPEC_KEYS) and "source" not in item:
        shown = [other for other in known if not other.startswith("mini_")]
        problems.append(f"{path}.encoder_name: unknown encoder {name!r}; known: {', '.join(shown)}")
        return None
    return name


def _with_chunks(
    item: Mapping[str, Any],
    path: str,
    extractor: Mapping[str, Any],
    extractor_path: str,
    spec: EncoderSpec,
    problems: list[str],
) -> EncoderSpec:
    """``spec`` with the chunk length that the encoder's and the feature extractor's options ask for."""
    kind, features = spec.module_name, spec.features
    if kind not in _ENCODER_RATES or "source" in item:  # not one of the published system, whose options these are
        _unknown_keys(item, ("encoder_name", CLASS_KEY, *_SPEC_KEYS, *_SOURCE_KEYS), path, problems)
        return spec
    fixed = {
        "frame_rate": _ENCODER_RATES[kind],
        "feature_extractor_time_dim": _FEATURES_DIM[kind],
        **({"sample_rate": features.sample_rate} if kind == "muq" else {}),
    }
    _unknown_keys(item, ("encoder_name", CLASS_KEY, "max_time", *fixed, *_SPEC_KEYS), path, problems)
    _only(item, fixed, path, problems)
    own = {"target_sr": features.sample_rate, **(_SSLAM_NORM if kind == "sslam" else {})}
    chunk_key = "max_frames" if kind == "sslam" else "max_time"
    _unknown_keys(extractor, ("encoder_name", chunk_key, *own), extractor_path, problems)
    _only(extractor, own, extractor_path, problems)
    per_second = features.sample_rate if kind == "muq" else _ENCODER_RATES[kind]
    encoder_chunk = item.get("max_time") and int(item["max_time"] * per_second)
    extractor_chunk = extractor.get(chunk_key) and int(extractor[chunk_key] * (1 if kind == "sslam" else per_second))
    if kind == "w2vbert":  # its features are those of the whole clip
        extractor_chunk = None
    chunk = encoder_chunk or extractor_chunk or features.chunk_frames
    if chunk == features.chunk_frames and extractor_chunk in (None, chunk):
        return spec
    if kind == "whisper" or (kind != "w2vbert" and extractor and chunk != (extractor_chunk or features.chunk_frames)):
        shown = f"{path}.max_time" if encoder_chunk else f"{extractor_path}.{chunk_key}"
        why = "whisper's chunks have the length of its positions" if kind == "whisper" else (
            "encoder and feature extractor must have chunks of one length"
        )  # fmt: skip
        problems.append(f"{shown}: cannot be expressed, {why}")
        return spec
    plain = spec.as_dict()  # bound again, so that a chunk that cannot be is reported with its key
    return encoder_spec(path, {**plain, "features": {**plain["features"], "chunk_frames": chunk}})


def _spec_extras(name: str, spec: EncoderSpec) -> dict[str, Any]:
    plain = spec.as_dict()
    if "encoder_name" in plain:
        plain[CLASS_KEY] = plain.pop("encoder_name")
    shipped = shipped_encoders().get(name)
    default = {} if shipped is None else shipped.as_dict()
    return {key: value for key, value in plain.items() if key not in default or value != default[key]}


# Adapters


def _adapters(
    items: Sequence[Any], specs: Mapping[str, EncoderSpec], width: Any, where: str, problems: list[str]
) -> dict[str, dict[str, Any]]:
    adapters: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(items):
        path = f"{where}[{index}]"
        if not isinstance(item, Mapping):
            problems.append(f"{path}: got {item!r}, expected a mapping with encoder_name and adapter_name")
            continue
        name, kind = item.get("encoder_name"), item.get("adapter_name")
        if kind not in _ADAPTER_DEFAULTS:
            problems.append(f"{path}.adapter_name: unknown adapter {kind!r}; known: {', '.join(_ADAPTER_DEFAULTS)}")
        elif name in adapters:
            problems.append(f"{path}.encoder_name: {name} has two adapters")
        elif name not in specs:
            problems.append(f"{path}.encoder_name: {name!r} is not among {ENCODERS_KEY} ({', '.join(specs)})")
        else:
            adapters[str(name)] = _adapter(item, str(kind), specs[str(name)], width, path, problems)
    lacking = [name for name in specs if name not in adapters]
    if lacking and not problems:
        problems.append(f"{where}: no adapter for {', '.join(lacking)}")
    return adapters


def _adapter(
    item: Mapping[str, Any], kind: str, spec: EncoderSpec, width: Any, path: str, problems: list[str]
) -> dict[str, Any]:
    own = AdapterConfig.option_names(kind)
    elsewhere = {option for other in _ADAPTER_DEFAULTS for option in AdapterConfig.option_names(other)}
    _unknown_keys(item, (*_COMMON_ADAPTER, *elsewhere), path, problems)
    _without_effect(item, elsewhere.difference(own, _COMMON_ADAPTER), f"adapter_name {kind}", path)
    encoder_dim = spec.bound_architecture().width
    if item.get("encoder_embedding_dim") not in (None, encoder_dim) and kind != "identity":
        problems.append(
            f"{path}.encoder_embedding_dim: got {item['encoder_embedding_dim']}, the encoder is {encoder_dim} wide"
        )
    projected = item.get("use_llm_proj", True)
    if projected and width is not None and item.get("llm_embedding_dim") not in (None, width):
        problems.append(f"{path}.llm_embedding_dim: got {item['llm_embedding_dim']}, the language model has {width}")
    result: dict[str, Any] = {"adapter_name": kind}
    layers = _layers(item.get("audio_encoder_layers"), spec, path, problems)
    if tuple(layers) != spec.layers:
        result["audio_encoder_layers"] = layers
    fusing = item.get("layer_fusion_config")
    if fusing is not None:
        if not isinstance(fusing, Mapping) or fusing.get("layer_fusion_type") != "weighted_average":
            problems.append(
                f"{path}.layer_fusion_config: got {fusing!r}, expected {{layer_fusion_type: weighted_average}}"
            )
        else:
            _unknown_keys(fusing, ("layer_fusion_type",), f"{path}.layer_fusion_config", problems)
    elif len(layers) > 1:
        problems.append(f"{path}.layer_fusion_config: missing, {len(layers)} layers need one")
    else:
        result["layer_fusion_config"] = None
    result |= {key: item[key] for key in ("pre_average", "trim_extra_padding", "use_llm_proj") if key in item}
    options = _ADAPTER_DEFAULTS[kind] | {key: item[key] for key in own if key in item}
    if kind == "mlp" and not projected:  # only a projection reads the adapter's width
        options["adapter_embedding_dim"] = options["hidden_dim"]
    elif kind != "identity" or projected:
        options["adapter_embedding_dim"] = item.get("adapter_embedding_dim")
        if options["adapter_embedding_dim"] is None:
            problems.append(f"{path}.adapter_embedding_dim: missing, a value is required")
            options["adapter_embedding_dim"] = 1024
    return result | options


def _layers(value: Any, spec: EncoderSpec, path: str, problems: list[str]) -> list[int]:
    if not isinstance(value, Sequence) or not value or not all(isinstance(layer, int) for layer in value):
        problems.append(f"{path}.audio_encoder_layers: got {value!r}, expected a list of layer numbers")
        return list(spec.layers)
    # The stack of states begins with the encoder's input, but for SSLAM; negative numbers count from its end.
    states = spec.bound_architecture().num_layers + (spec.module_name != "sslam")
    if wrong := [layer for layer in value if not -states <= layer < states]:
        problems.append(f"{path}.audio_encoder_layers: {wrong[0]} is not among the {states} states of the encoder")
        return list(spec.layers)
    return [layer % states for layer in value]


def _adapter_item(
    name: str, adapter: AdapterConfig, audio_embedder: AudioEmbedderConfig, width: int
) -> dict[str, Any]:
    encoder_dim = audio_embedder.encoders[name].bound_architecture().width
    options = {key: value for key, value in adapter.options().items() if (key, value) != ("frame_rate", None)}
    return {
        "encoder_name": name,
        "adapter_name": adapter.adapter_name,
        "layer_fusion_config": adapter.layer_fusion_config and {"layer_fusion_type": "weighted_average"},
        "audio_encoder_layers": list(audio_embedder.layers(name)),
        "pre_average": adapter.pre_average,
        "trim_extra_padding": adapter.trim_extra_padding,
        "use_llm_proj": adapter.use_llm_proj,
        "encoder_embedding_dim": encoder_dim,
        "llm_embedding_dim": width,
        **options,
        "adapter_embedding_dim": adapter.adapter_embedding_dim or encoder_dim,
    }


# Fusion


def _fusion(
    item: Any,
    adapters: Mapping[str, Mapping[str, Any]],
    specs: Mapping[str, EncoderSpec],
    width: Any,
    inner_where: str,
    problems: list[str],
) -> dict[str, Any]:
    path = f"{inner_where}.audio_fusion_config"
    if not isinstance(item, Mapping) or item.get("fusion_type") not in _FUSION_DEFAULTS:
        got = item.get("fusion_type") if isinstance(item, Mapping) else item
        problems.append(f"{path}.fusion_type: unknown fusion {got!r}; known: {', '.join(_FUSION_DEFAULTS)}")
        return {}
    kind = str(item["fusion_type"])
    own = FusionConfig.option_names(kind)
    elsewhere = {option for other in _FUSION_DEFAULTS for option in FusionConfig.option_names(other)}
    _unknown_keys(item, ("fusion_type", "llm_embedding_dim", *_MEMORY_ONLY, *elsewhere), path, problems)
    _without_effect(item, elsewhere.difference(own), f"fusion_type {kind}", path)
    if memory := [key for key in _MEMORY_ONLY if _any(item.get(key))]:
        log.info("%s.%s: saves memory in the published code and changes no number; not done here", path, memory[0])
    if kind != "sum" and width is not None and item.get("llm_embedding_dim", width) not in (None, width):
        problems.append(f"{path}.llm_embedding_dim: got {item['llm_embedding_dim']}, the language model has {width}")
    given = _FUSION_DEFAULTS[kind] | {key: item[key] for key in own if key in item}
    if kind == "sum":
        return {"fusion_type": kind}
    conditional = given["conditional_encoders"]
    named = [given["main_encoder"], *(conditional if isinstance(conditional, Sequence) else [])]
    if unknown := [name for name in named if name not in specs]:
        problems.append(f"{path}: names {', '.join(map(str, unknown))}, not among the encoders {', '.join(specs)}")
        return {}
    count = len(named) - 1
    options = {key: _per_encoder(key, value, kind, count, path, problems) for key, value in given.items()}
    for attention in ("cross", "self"):  # value channels follow query and key channels in the published code
        keys = f"num_{attention}_attention_qk_channels", f"num_{attention}_attention_v_channels"
        options |= _value_channels(options, *keys)
    if kind == "multiperceiver":
        expected = options.pop("conditional_embedding_dim", None)
        stated = [expected] * count if not isinstance(expected, list) else expected
        for name, dim in zip(named[1:], stated, strict=False):
            real = _width_after(adapters[name], specs[name], width) if name in adapters else dim
            if dim not in (None, real) and real is not None:
                problems.append(f"{path}.conditional_embedding_dim: got {dim} for {name}, its stream is {real} wide")
    if kind == "crossattention":
        for name in named:
            real = _width_after(adapters[name], specs[name], width) if name in adapters else width
            if width is not None and real != width:
                problems.append(f"{path}: crossattention reads streams {width} wide, that of {name} is {real}")
    return {"fusion_type": kind, **options}


def _per_encoder(key: str, value: Any, kind: str, count: int, path: str, problems: list[str]) -> Any:
    """One value, or one for each conditional encoder; equal values become one, longer lists are cut as published."""
    if key == "conditional_encoders" or not isinstance(value, Sequence) or isinstance(value, str):
        return value
    values = list(value)
    if len(values) < count or (len(values) > count and key == "num_latents"):
        problems.append(f"{path}.{key}: has {len(values)} values for {count} conditional_encoders")
        return value
    values = values[:count]
    # one value, as in the shipped YAML, to which a configuration that was read is compared
    if kind == "multiperceiver" and all(one == values[0] for one in values):
        return values[0]
    return values


def _value_channels(options: Mapping[str, Any], qk: str, v: str) -> dict[str, Any]:
    keys, values = options.get(qk), options.get(v)
    if keys is None or (values is not None and not isinstance(values, list)):
        return {}
    if not isinstance(keys, list) and not isinstance(values, list):
        return {v: keys}
    count = len(keys) if isinstance(keys, list) else len(values or ())
    pairs = zip(
        keys if isinstance(keys, list) else [keys] * count,
        values if isinstance(values, list) else [values] * count,
        strict=False,
    )
    return {v: [key if value is None else value for key, value in pairs]}


def _fusion_item(audio_embedder: AudioEmbedderConfig, width: int) -> dict[str, Any]:
    fusion = audio_embedder.audio_fusion_config
    kind, options = fusion.fusion_type, fusion.options()
    if kind == "sum":
        return {"fusion_type": kind}
    conditional = tuple(options["conditional_encoders"])
    widths = {
        name: _width_after(vars(audio_embedder.audio_adapter_config[name]), audio_embedder.encoders[name], width)
        for name in (str(options["main_encoder"]), *conditional)
    }
    if kind == "crossattention" and (wrong := [name for name in widths if widths[name] != width]):
        raise ConfigError(
            f"model.config.audio_fusion_config: the stream of {wrong[0]} is {widths[wrong[0]]} wide; published "
            f"cross-attention reads streams as wide as the language model ({width})"
        )
    result: dict[str, Any] = {"fusion_type": kind, "llm_embedding_dim": width}
    listed = {"crossattention": ("num_hidden_layers",), "perceiver": (), "multiperceiver": None}[kind]
    for key, value in options.items():
        if key in ("main_encoder", "conditional_encoders"):
            result[key] = list(value) if key == "conditional_encoders" else value
        elif (listed is None or key in listed) and not isinstance(value, tuple):
            result[key] = [value] * len(conditional)
        else:
            result[key] = list(value) if isinstance(value, tuple) else value
    if kind == "multiperceiver":
        result["conditional_embedding_dim"] = [widths[name] for name in conditional]
    for attention in ("cross", "self"):  # ours follow the latents' width where they are not given
        qk, v = f"num_{attention}_attention_qk_channels", f"num_{attention}_attention_v_channels"
        result |= _written_value_channels(result, qk, v)
    return result


def _written_value_channels(result: Mapping[str, Any], qk: str, v: str) -> dict[str, Any]:
    if qk not in result:
        return {}
    if not isinstance(result[qk], list):
        return {v: result["num_latent_channels"]} if result[qk] and result[v] is None else {}
    return {
        v: [
            channels if key is not None and value is None else value
            for key, value, channels in zip(result[qk], result[v], result["num_latent_channels"], strict=True)
        ]
    }


# What both forms share


def _check_rest(inner: Mapping[str, Any], width: Any, where: str, problems: list[str]) -> None:
    post = inner.get("audio_postprocessing_config")
    kind = post.get("postprocessing_type") if isinstance(post, Mapping) else post
    if kind not in (None, "identity"):
        problems.append(
            f"{where}.audio_postprocessing_config: got {kind!r}, expected identity, the only one there is"
        )
    if inner.get("audio_sep_d_embed") not in (None, width) and width is not None:
        problems.append(
            f"{where}.audio_sep_d_embed: got {inner['audio_sep_d_embed']}, the language model has {width}"
        )


def _unknown_keys(mapping: Mapping[str, Any], known: Sequence[str], where: str, problems: list[str]) -> None:
    for key in mapping:
        if key not in known:
            problems.append(f"{where}.{key}: unknown key; {name_hint(str(key), sorted(known))}")


def _only(mapping: Mapping[str, Any], fixed: Mapping[str, Any], where: str, problems: list[str]) -> None:
    for key, value in fixed.items():
        if mapping.get(key, value) != value:
            problems.append(f"{where}.{key}: got {mapping[key]!r}, only {value!r} can be expressed")


def _without_effect(mapping: Mapping[str, Any], keys: set[str], why: str, path: str) -> None:
    if ignored := sorted(keys & set(mapping)):
        log.info("%s: %s has no effect with %s", path, ", ".join(ignored), why)


def _any(value: Any) -> bool:
    return any(value) if isinstance(value, (list, tuple)) else bool(value)
