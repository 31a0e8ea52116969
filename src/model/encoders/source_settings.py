"""Settings of an encoder from the files of its source: ``config.json`` and the settings of its feature extractor.

``encoder_name: hf`` takes everything from there; ``whisper`` and ``w2vbert`` take the sizes that they are not given.
The result is complete and is stored in checkpoints, which are read again without these files.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig

from src.audio.config import MINIMUM_SECONDS
from src.common.errors import ConfigError, UserError, error_text, name_hint
from src.common.log import get_logger
from src.model.encoders.backbones import AST_MODEL, CLAP_MODEL, WAVEFORM_MODELS
from src.model.encoders.config import PINNED_ENCODERS, EncoderSpec
from src.model.llm import resolve_source

log = get_logger(__name__)

CHUNK_SECONDS = 30.0
"""Chunk of models without a table of positions, as of the published encoders."""
KEYS = ("encoder_name", "source", "revision", "layers", "chunk_seconds", "features", "architecture", "weights")
EXTRACTORS = {
    **dict.fromkeys(WAVEFORM_MODELS, "Wav2Vec2FeatureExtractor"),
    AST_MODEL: "ASTFeatureExtractor",
    CLAP_MODEL: "ClapFeatureExtractor",
    "whisper": "WhisperFeatureExtractor",
    "wav2vec2-bert": "SeamlessM4TFeatureExtractor",
}
"""Model type -> the feature extractor of transformers that its features here are equal to."""
WHISPER_RATE, W2VBERT_RATE = 100, 50
"""Feature frames a second."""
_SIZES = {
    "whisper": {
        "width": "d_model",
        "num_layers": "encoder_layers",
        "num_heads": "encoder_attention_heads",
        "ffn_dim": "encoder_ffn_dim",
    },
    "w2vbert": {
        "width": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
        "conv_kernel": "conv_depthwise_kernel_size",
        "left_positions": "left_max_position_embeddings",
        "right_positions": "right_max_position_embeddings",
    },
}
"""Encoder -> size in ``architecture`` -> field of transformers' configuration."""
_UNUSED = (
    *("_name_or_path", "architectures", "transformers_version", "id2label", "label2id"),
    *("torch_dtype", "dtype", "auto_map", "processor_class"),
)


def source_config(source: str, revision: str | None, where: str) -> dict[str, Any]:
    """``config.json`` of a folder or Hub id, of CLAP the audio part; fields about labels and files are left out.

    ``_commit_hash`` is the commit of a Hub repository.

    Raises :class:`UserError` when there is none.
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(resolve_source(source), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: config.json of {source} cannot be read ({error_text(error, 200)})") from error
    if config.get("model_type") == "clap":
        audio = config.get("audio_config") or {}
        config = {**audio, "model_type": CLAP_MODEL, "_commit_hash": config.get("_commit_hash")}
    if "model_type" not in config:
        raise UserError(
            f"{where}: {source} has no config.json with a model_type; expected a folder or Hub id of a model of "
            "transformers"
        )
    return {key: value for key, value in config.items() if key not in _UNUSED}


def source_extractor(source: str, revision: str | None, kind: str, where: str) -> Any:
    """The feature extractor of a source, for models of type ``kind``. Raises :class:`UserError` for another one."""
    expected = EXTRACTORS[kind]
    cls = getattr(transformers, expected)
    try:
        settings, _ = cls.get_feature_extractor_dict(resolve_source(source), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{where}: {source} has no preprocessor_config.json, which gives sampling rate and normalisation; save "
            f"the model's feature extractor next to it ({error_text(error, 120)})"
        ) from error
    settings = {key: value for key, value in settings.items() if key not in _UNUSED}
    found = settings.setdefault("feature_extractor_type", expected)
    if found != expected:
        raise UserError(f"{where}: the feature extractor of {source} is {found}, expected {expected} for a {kind}")
    return cls.from_dict(settings)


def complete_from_source(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Complete settings of an encoder by what its source says; given ``layers`` and chunk lengths stay.

    Args:
        settings: ``source`` and ``revision`` (or both below ``weights``), and optionally ``layers``,
            ``chunk_seconds``, and ``features``, which come before those of the source.
        where: the encoder, for messages.

    Raises:
        ConfigError: no source, a model type that is not an audio encoder, or a chunk it cannot have.
        UserError: files that are missing or of another kind.
    """
    if unknown := [key for key in settings if key not in KEYS]:
        raise ConfigError("; ".join(f"{where}.{key}: unknown key; {name_hint(key, KEYS)}" for key in unknown))
    weights = dict(settings.get("weights") or {})
    weights |= {key: settings[key] for key in ("source", "revision") if settings.get(key) is not None}
    source = weights.get("source")
    if not isinstance(source, str) or not source or source == "???":
        raise ConfigError(f"{where}.source: missing, give the encoder's folder or Hub id (OWNER/NAME)")
    config = source_config(source, weights.get("revision"), f"{where}.source")
    commit = config.pop("_commit_hash", None)  # later loads, from a checkpoint, take the same files
    kind = str(config["model_type"])
    if kind not in EXTRACTORS:
        raise ConfigError(
            f"{where}.source: {source} is a {kind}, not an audio encoder that is known; known: "
            f"{', '.join(EXTRACTORS)}; for another one write a class (docs/extending.md)"
        )
    given = dict(settings.get("features") or {})
    seconds = settings.get("chunk_seconds")
    if seconds is not None and (not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or seconds <= 0):
        raise ConfigError(f"{where}.chunk_seconds: got {seconds!r}, expected a number of seconds above 0")
    extractor = source_extractor(source, weights.get("revision"), kind, f"{where}.source")
    make = _whisper if kind == "whisper" else _w2vbert if kind == "wav2vec2-bert" else _pretrained
    name, features, architecture = make(config, extractor, seconds, where)
    features = {**features, **{key: value for key, value in given.items() if key != "kind"}}
    return {
        "encoder_name": name,
        "features": features,
        "architecture": architecture,
        "layers": settings.get("layers") or quarter_layers(architecture["num_layers"]),
        "weights": {"source": source, "revision": weights.get("revision") or commit},
    }


def quarter_layers(num_layers: int) -> list[int]:
    """The layers that are read by default, one per quarter of the depth: 7, 15, 23 and 31 of 32, as published."""
    return list(dict.fromkeys(max(1, num_layers * quarter // 4 - 1) for quarter in range(1, 5)))


def with_source_sizes(name: str, spec: EncoderSpec, level: int = logging.DEBUG) -> EncoderSpec:
    """``spec`` of a Whisper or w2v-BERT with the sizes that its source's ``config.json`` gives, if it has one.

    So ``weights.source`` alone chooses another Whisper. The source that the shipped sizes are of is not asked. Layers
    that are the default for the old sizes (one per quarter) become the default for the new ones. ``level`` is that of
    the log line about a difference. Raises :class:`ConfigError` for a source of another kind and for chunks that are
    longer than its positions.
    """
    kinds = {"whisper": "whisper", "w2vbert": "wav2vec2-bert"}
    if spec.module_name not in kinds or spec.weights is None or spec.weights.source in PINNED_ENCODERS:
        return spec
    where = f"encoder {name}: weights.source"
    try:
        config = source_config(spec.weights.source, spec.weights.revision, where)
    except UserError:  # the configured sizes stay; loading says what does not fit
        return spec
    if config["model_type"] != kinds[spec.module_name]:
        raise ConfigError(
            f"{where}: {spec.weights.source} is a {config['model_type']}, expected a {kinds[spec.module_name]}; "
            "encoder_name: hf reads it"
        )
    config.pop("_commit_hash", None)
    bound, features = AutoConfig.for_model(**config), spec.features
    sizes = _sizes(spec.module_name, bound)
    if spec.module_name == "whisper":
        features = dataclasses.replace(features, num_mels=bound.num_mel_bins)
        _check_positions(features.chunk_frames, bound, f"encoder {name}: features.chunk_frames")
    else:
        features = dataclasses.replace(features, num_mels=bound.feature_projection_input_dim // 2)
    old = {**vars(spec.bound_architecture()), "num_mels": spec.features.num_mels}
    differing = [
        f"{key} {value} (configured {old.get(key)})"
        for key, value in {**sizes, "num_mels": features.num_mels}.items()
        if old.get(key) != value
    ]
    if not differing:
        return spec
    layers = spec.layers
    if list(layers) == quarter_layers(old["num_layers"]):
        layers = tuple(quarter_layers(sizes["num_layers"]))
    log.log(
        level,
        "encoder %s: sizes from config.json of %s: %s; layers %s",
        *(name, spec.weights.source, ", ".join(differing), ", ".join(map(str, layers))),
    )
    return dataclasses.replace(spec, features=features, architecture={**spec.architecture, **sizes}, layers=layers)


def _check_positions(frames: int, bound: Any, key: str) -> None:
    positions = 2 * int(bound.max_source_positions)  # in frames: the second convolution has stride 2
    if not 2 <= frames <= positions or frames % 2:
        raise ConfigError(
            f"{key}: got {frames} frames of 10 ms, expected an even number up to {positions} "
            f"({positions / WHISPER_RATE:g} s): the model has {positions // 2} positions of 20 ms"
        )


def _sizes(name: str, bound: Any) -> dict[str, Any]:
    return {size: getattr(bound, field) for size, field in _SIZES[name].items()}


def _whisper(
    config: dict[str, Any], extractor: Any, seconds: float | None, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    bound = AutoConfig.for_model(**config)
    frames = 2 * int(bound.max_source_positions) if seconds is None else 2 * round(seconds * WHISPER_RATE / 2)
    _check_positions(frames, bound, f"{where}.chunk_seconds")
    features = {
        "kind": "whisper",
        "sample_rate": int(extractor.sampling_rate),
        "chunk_frames": frames,
        "num_mels": int(bound.num_mel_bins),
    }
    return "whisper", features, _sizes("whisper", bound)


def _w2vbert(
    config: dict[str, Any], extractor: Any, seconds: float | None, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    bound = AutoConfig.for_model(**config)
    fixed = {"position_embeddings_type": "relative_key", "hidden_act": "swish"}
    wrong = [
        f"{key} {getattr(bound, key)}, expected {fixed[key]}" for key in fixed if getattr(bound, key) != fixed[key]
    ]
    # two mel frames are stacked into one row of features
    if bound.feature_projection_input_dim != 2 * extractor.num_mel_bins or extractor.stride != 2:
        wrong.append(f"{extractor.num_mel_bins} mel bins in steps of {extractor.stride} frames, expected 2")
    if wrong:
        raise ConfigError(f"{where}.source: not the form of w2v-BERT that is known: {'; '.join(wrong)}")
    features = {
        "kind": "w2vbert",
        "sample_rate": int(extractor.sampling_rate),
        "chunk_frames": max(1, round((seconds or CHUNK_SECONDS) * W2VBERT_RATE)),
        "num_mels": int(extractor.num_mel_bins),
    }
    return "w2vbert", features, _sizes("w2vbert", bound)


def _pretrained(
    config: dict[str, Any], extractor: Any, seconds: float | None, where: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    if config["model_type"] in WAVEFORM_MODELS:
        config = {**config, "add_adapter": False}  # would shorten the last state only
    bound = AutoConfig.for_model(**config)
    rate = int(extractor.sampling_rate)
    features: dict[str, Any] = {"kind": "spectrogram", "sample_rate": rate}
    architecture = {"width": bound.hidden_size, "num_layers": bound.num_hidden_layers, "config": config}
    if config["model_type"] in WAVEFORM_MODELS:
        field = 1  # samples under one frame of the last convolution
        for kernel, stride in reversed(list(zip(bound.conv_kernel, bound.conv_stride, strict=True))):
            field = (field - 1) * stride + kernel
        features |= {
            "kind": "waveform",
            "chunk_frames": max(field, round((seconds or CHUNK_SECONDS) * rate)),
            "minimum_seconds": max(MINIMUM_SECONDS, field / rate),
        }
    elif config["model_type"] == CLAP_MODEL:
        features["chunk_frames"] = extractor.nb_max_samples // extractor.hop_length + 1  # frames are centred
        features["num_mels"] = int(extractor.feature_size)
        # a Swin transformer doubles its width from stage to stage; ClapEncoder reads the last one
        architecture |= {"width": bound.patch_embeds_hidden_size * 2 ** (len(bound.depths) - 1), "num_layers": 1}
    else:
        extractor.max_length = int(bound.max_length)
        features |= {"chunk_frames": extractor.max_length, "num_mels": int(extractor.num_mel_bins)}
    if seconds is not None and features["kind"] == "spectrogram":
        raise ConfigError(
            f"{where}.chunk_seconds: got {seconds:g}; a {config['model_type']} has chunks of the one length that its "
            "positions are for; leave it out"
        )
    settings = {key: value for key, value in extractor.to_dict().items() if key not in _UNUSED and value is not None}
    return "hf", {**features, "extractor": settings}, architecture
