"""The published form of a checkpoint: the whole model under the names of ``Blinorot/ALARM-*``.

Adapters, fusion and separators are stored below ``model.audio_*``, the encoders below
``model.audio_encoder.encoders.NAME.``, the LLM under its own names. ``config.json`` contains the LLM's own fields and
the configuration of the audio part, and its tensors must have the shapes that this configuration gives. Without it
the configuration is recognised by the names and shapes of the tensors; encoder layers, attention heads and skip
connections are in no tensor and are then those of the shipped configuration.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from src.common.config import CONFIG_DIR, compose
from src.common.errors import ConfigError, UserError, error_text
from src.common.log import get_logger
from src.model.audio_embedder import AudioEmbedder
from src.model.config import ModelConfig
from src.model.encoders.config import EncoderSpec
from src.model.encoders.load import build_encoder
from src.model.published_config import bind_model, model_config_from_published, shipped_encoders
from src.model.tensor_files import TensorFiles, read_json

PREFIX = "model."
AUDIO_PREFIX = PREFIX + "audio_"
ENCODER_PREFIX = AUDIO_PREFIX + "encoder.encoders."
EMBEDDINGS = PREFIX + "embed_tokens.weight"
GENERATION_SETTINGS = "default_inference"
"""The one file of ``src/configs/model`` that is not a model: it says how much a model may write."""
SIZED_BY_SOURCE = ("hf_encoder", "small_whisper")
"""Models whose encoder has the sizes that its source says: no checkpoint is recognised by them."""
SHIPPED_MODELS = (
    *("alarm_ca", "alarm_p", "muq", "sslam", "w2vbert", "whisper_batch"),
    *("mini_alarm_ca", "mini_alarm_p", "mini_muq", "mini_sslam", "mini_w2vbert", "mini_whisper"),
)
"""The models of this repository. They come before a user's own files in the same folder, so that these cannot change
how a published checkpoint is read."""
SEPARATORS = ("audio_start_emb", "audio_end_emb")
CONFIG_FILE = "config.json"
AUDIO_FIELDS = ("audio_encoder_configs", "audio_adapter_configs", "audio_fusion_config")
UNNAMED = "unnamed"
LLM_NAME = "_name_or_path"
"""Where transformers used to write which model a configuration is of; the published system writes no name."""
QWEN3_BY_SIZE = {
    (1024, 28): "Qwen/Qwen3-0.6B",
    (2048, 28): "Qwen/Qwen3-1.7B",
    (2560, 36): "Qwen/Qwen3-4B",
    (4096, 36): "Qwen/Qwen3-8B",
    (5120, 40): "Qwen/Qwen3-14B",
    (5120, 64): "Qwen/Qwen3-32B",
}
"""Language models of the published system's family, by ``hidden_size`` and ``num_hidden_layers``."""
ROPE_THETA_2507 = 5_000_000
"""Tells Qwen3-4B-*-2507 from Qwen3-4B, whose tensors have the same shapes."""

Shapes = Mapping[str, tuple[int, ...]]
log = get_logger(__name__)


def encoder_names(names: Collection[str]) -> set[str]:
    """Encoders that a checkpoint with tensors ``names`` holds."""
    return {name.removeprefix(ENCODER_PREFIX).split(".")[0] for name in names if name.startswith(ENCODER_PREFIX)}


@cache
def model_config(name: str) -> ModelConfig:
    """The configuration ``src/configs/model/NAME.yaml``. Raises :class:`ConfigError` if there is no such model."""
    if not (CONFIG_DIR / "model" / f"{name}.yaml").is_file():
        raise ConfigError(f"model_config {name!r} is not known; known: {', '.join(known_models())}")
    return bind_model(compose(f"model/{name}", [])["model"], "model", logging.DEBUG)


def known_models() -> list[str]:
    """Names of the model configurations: the published ones first, then the miniatures, then the user's own."""
    names = {path.stem for path in (CONFIG_DIR / "model").glob("*.yaml")} - {GENERATION_SETTINGS, *SIZED_BY_SOURCE}
    shipped = [name for name in SHIPPED_MODELS if name in names]
    return [*shipped, *sorted(names.difference(shipped))]


def read_published_config(path: Path, where: str) -> dict[str, Any] | None:
    """The content of a ``config.json`` with an audio part; None for one of a plain language model.

    Raises :class:`UserError` for a file that cannot be read.
    """
    content = read_json(path, where)
    if not any(field in content for field in AUDIO_FIELDS) and not str(content.get("model_type")).endswith("_audio"):
        return None
    return content


def configured(content: Mapping[str, Any], tensors: TensorFiles, trained: Shapes, where: str) -> ModelConfig:
    """The configuration that the ``content`` of a published ``config.json`` gives, checked against the tensors.

    ``tensors`` of the checkpoint ``where`` decide between an encoder of the published size and a shipped miniature;
    ``trained`` are shapes of adapters, fusion and separators, by their names below ``model.``. Raises
    :class:`UserError` for an unknown encoder, adapter or fusion, a missing or mistyped field, or other shapes.
    """
    try:
        config = model_config_from_published(content, CONFIG_FILE, UNNAMED, _fitting_encoders(tensors))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        # values of wrong types: the file can come from anybody, and is read without a schema
        raise UserError(
            f"{where}: {CONFIG_FILE} is not the configuration of an audio model ({error_text(error, 120)})"
        ) from error
    expected = trained_shapes(config, where)
    differing = sorted(name for name in {*trained, *expected} if trained.get(name) != expected.get(name))
    if differing:
        shown = [
            f"{name} is {trained.get(name, 'missing')}, {CONFIG_FILE} gives {expected.get(name, 'none')}"
            for name in differing[:3]
        ]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"{where}: {CONFIG_FILE} disagrees with the tensors: {'; '.join(shown)}{more}")
    return config if config.llm != UNNAMED else dataclasses.replace(config, llm=_llm_name(content, where))


def _llm_name(content: Mapping[str, Any], where: str) -> str:
    """The language model of a checkpoint, by name where there is one, else by its sizes."""
    named = content.get(LLM_NAME)
    if isinstance(named, str) and named:
        return named
    width, layers = content.get("hidden_size"), content.get("num_hidden_layers")
    found = QWEN3_BY_SIZE.get((width, layers))  # type: ignore[arg-type]
    shipped = [config for config in map(model_config, SHIPPED_MODELS) if config.llm_embedding_dim == width]
    # without rope_theta: the language model of the published system itself
    if found is None or (found == "Qwen/Qwen3-4B" and content.get("rope_theta", ROPE_THETA_2507) == ROPE_THETA_2507):
        found = shipped[0].llm if shipped else found
    if found is None:
        raise UserError(
            f"{where}: {CONFIG_FILE} names no language model, and none with hidden_size {width!r} and "
            f'num_hidden_layers {layers!r} is known; add "{LLM_NAME}": "LLM" to it (a folder or a Hub id)'
        )
    log.info("%s: its language model is taken to be %s, by its sizes (hidden_size %s)", where, found, width)
    return found


def _fitting_encoders(tensors: TensorFiles) -> dict[str, EncoderSpec]:
    """For each stored encoder the shipped specification of its kind (published size or miniature) that fits best."""
    chosen: dict[str, EncoderSpec] = {}
    for name in sorted(encoder_names(tensors.file_of)):
        options = [spec for spec in shipped_encoders().values() if spec.module_name == name]
        if not options:
            continue
        prefix = f"{ENCODER_PREFIX}{name}."
        stored = tensors.names(prefix)
        own = shipped_encoders().get(name)  # of the published size: then the names show it and no header is read
        if own is not None and {prefix + inner for inner in _encoder_shapes(name, own)} == set(stored):
            chosen[name] = own
            continue
        shapes = {full.removeprefix(prefix): shape for full, shape in tensors.shapes(stored).items()}
        known = [_encoder_shapes(name, spec) for spec in options]
        misfits = [sum(each.get(inner) != shape for inner, shape in shapes.items()) for each in known]
        chosen[name] = options[misfits.index(min(misfits))]
    return chosen


def _encoder_shapes(name: str, spec: EncoderSpec) -> dict[str, tuple[int, ...]]:
    with _on_meta():
        return {inner: tuple(value.shape) for inner, value in build_encoder(name, spec).state_dict().items()}


def recognise(trained: Shapes, encoders: Collection[str], width: int, where: str) -> ModelConfig:
    """The known configuration with exactly these ``trained`` tensors (as in :func:`configured`) and encoders.

    ``width`` is that of the LLM's embeddings. Raises :class:`UserError` where none fits, saying how the most similar
    one differs.
    """
    closest: tuple[int, str] = (len(trained) + 1, "none has these encoders and this width")
    for name in known_models():
        try:
            config = model_config(name)
        except ConfigError as error:  # only a user's own file: it must not stop the reading of other checkpoints
            log.warning("src/configs/model/%s.yaml is left out: %s", name, error)
            continue
        if set(config.config.encoders) != set(encoders) or config.llm_embedding_dim != width:
            continue
        # every shipped configuration can be trained with either: tags in the text, or learned separators
        tags = not any(separator in trained for separator in SEPARATORS)
        config = dataclasses.replace(
            config, config=dataclasses.replace(config.config, use_explicit_audio_tokens=tags)
        )
        expected = trained_shapes(config, name)
        differing = sorted(tensor for tensor in {*trained, *expected} if trained.get(tensor) != expected.get(tensor))
        if not differing:
            log.warning(
                "%s has no %s with an audio part: recognised as %s by its tensors; not in any tensor, so taken from "
                "src/configs/model/%s.yaml: %s",
                where, CONFIG_FILE, name, name, _assumptions(config),
            )  # fmt: skip
            return config
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        closest = min(closest, (len(differing), f"{name} differs in {shown}"))
    raise UserError(
        f"{where}: without {CONFIG_FILE} its configuration must follow from its tensors, and they fit none of "
        f"{', '.join(known_models())} ({closest[1]}); put a fitting YAML file into src/configs/model"
    )


def _assumptions(config: ModelConfig) -> str:
    """Settings that no tensor shows: LLM, encoder layers, attention heads, order of streams, skip connections."""
    audio_embedder = config.config
    parts = [f"LLM {config.llm}"]
    parts += [f"layers of {name} {list(audio_embedder.layers(name))}" for name in audio_embedder.encoders]
    for name, adapter in audio_embedder.audio_adapter_config.items():
        options = adapter.options()
        if options.get("use_conformer"):
            parts.append(f"conformer_heads of {name} {options['conformer_heads']}")
    for option, value in audio_embedder.audio_fusion_config.options().items():
        if option.endswith("_heads") or option in ("use_skip_connection", "main_encoder", "conditional_encoders"):
            parts.append(f"{option} {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return "; ".join(parts)


@contextmanager
def _on_meta() -> Iterator[None]:
    """Modules without memory for their tensors; the random numbers of the program stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def trained_shapes(config: ModelConfig, where: str = "model config") -> dict[str, tuple[int, ...]]:
    """Shapes of the trained tensors of a configuration, by name; nothing is allocated.

    Raises :class:`UserError` for a configuration that no model can be built from.
    """
    state = build_on_meta(config, where).trained_state()
    return {name: tuple(value.shape) for name, value in state.items()}


def build_on_meta(config: ModelConfig, where: str, encoders: Mapping[str, Any] | None = None) -> AudioEmbedder:
    """The audio embedder of a configuration on the meta device; ``encoders`` are used where they are given.

    Raises :class:`UserError` for a configuration that no model can be built from: widths that heads do not divide,
    sizes that no tensor can have.
    """
    assert config.llm_embedding_dim is not None
    try:
        with _on_meta():
            if encoders is None:
                encoders = {name: build_encoder(name, spec) for name, spec in config.config.encoders.items()}
            return AudioEmbedder(config.config, config.llm_embedding_dim, encoders)
    except (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{where}: no model can be built from its configuration ({error_text(error, 200)})"
        ) from error
