"""The published form of a checkpoint: the whole model under the names of ``Blinorot/ALARM-*``, without our config.

Adapters, fusion and separators lie below ``model.audio_*``, the encoders below
``model.audio_encoder.encoders.NAME.``, the LLM under its own names. Which configuration a checkpoint belongs to
follows from the names and shapes of its tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import torch

from src.common.config import CONFIG_DIR, compose
from src.common.errors import ConfigError, UserError
from src.common.log import get_logger
from src.model.config import ModelConfig
from src.model.encoders.build import build_encoder
from src.model.front_end import AudioFrontEnd
from src.model.published_config import bind_model

PREFIX = "model."
AUDIO_PREFIX = PREFIX + "audio_"
ENCODER_PREFIX = AUDIO_PREFIX + "encoder.encoders."
EMBEDDINGS = PREFIX + "embed_tokens.weight"
GENERATION_SETTINGS = "default_inference"
"""The one file of ``src/configs/model`` that is not a model: it says how much a model may write."""
SEPARATORS = ("audio_start_emb", "audio_end_emb")

Shapes = Mapping[str, tuple[int, ...]]
log = get_logger(__name__)


def encoder_names(names: Collection[str]) -> set[str]:
    """Encoders that a checkpoint with tensors ``names`` holds."""
    return {name.removeprefix(ENCODER_PREFIX).split(".")[0] for name in names if name.startswith(ENCODER_PREFIX)}


def model_config(name: str) -> ModelConfig:
    """The configuration ``src/configs/model/NAME.yaml``. Raises :class:`ConfigError` if there is no such model."""
    if not (CONFIG_DIR / "model" / f"{name}.yaml").is_file():
        raise ConfigError(f"model_config {name!r} is not known; known: {', '.join(known_models())}")
    return bind_model(compose(f"model/{name}", [])["model"], "model")


def known_models() -> list[str]:
    """Names of the model configurations: the published ones first, then the miniatures."""
    names = {path.stem for path in (CONFIG_DIR / "model").glob("*.yaml")} - {GENERATION_SETTINGS}
    return sorted(names, key=lambda name: (name.startswith("mini_"), name))


def recognise(trained: Shapes, encoders: Collection[str], width: int, where: str) -> ModelConfig:
    """The known configuration with exactly these trained tensors.

    Args:
        trained: shapes of adapters, fusion and separators, by their names below ``model.``.
        encoders: names of the checkpoint's encoders.
        width: of the LLM's embeddings.
        where: the checkpoint, for messages.

    Raises:
        UserError: none fits; says how the most similar one differs.
    """
    closest: tuple[int, str] = (len(trained) + 1, "none has these encoders and this width")
    for name in known_models():
        config = model_config(name)
        if set(config.config.encoders) != set(encoders) or config.llm_embedding_dim != width:
            continue
        tags = not any(separator in trained for separator in SEPARATORS)
        config = dataclasses.replace(
            config, config=dataclasses.replace(config.config, use_explicit_audio_tokens=tags)
        )
        expected = trained_shapes(config)
        differing = sorted(tensor for tensor in {*trained, *expected} if trained.get(tensor) != expected.get(tensor))
        if not differing:
            log.info("%s: recognised as %s by its tensors", where, name)
            return config
        shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        closest = min(closest, (len(differing), f"{name} differs in {shown}"))
    raise UserError(
        f"{where}: without alarm_config.json its configuration must follow from its tensors, and they fit none of "
        f"{', '.join(known_models())} ({closest[1]}); put a fitting YAML file into src/configs/model"
    )


def trained_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained tensors of a configuration, by name; nothing is allocated."""
    assert config.llm_embedding_dim is not None
    with torch.device("meta"):
        encoders = {name: build_encoder(name, spec) for name, spec in config.config.encoders.items()}
        state = AudioFrontEnd(config.config, config.llm_embedding_dim, encoders).trained_state()
    return {name: tuple(value.shape) for name, value in state.items()}
