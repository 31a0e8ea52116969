"""Encoder by configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from src.audio.config import EncoderKind
from src.common.errors import ConfigError
from src.model.encoders.base import Encoder
from src.model.encoders.config import EncoderSpec, encoder_spec
from src.model.encoders.muq import MuQEncoder
from src.model.encoders.sslam import SSLAMEncoder
from src.model.encoders.w2vbert import W2VBertEncoder
from src.model.encoders.whisper import WhisperEncoder

BUILDERS: dict[EncoderKind, Callable[..., Encoder]] = {
    "whisper": WhisperEncoder.from_config,
    "w2vbert": W2VBertEncoder.from_config,
    "sslam": SSLAMEncoder.from_config,
    "muq": MuQEncoder.from_config,
}


def build_encoder(name: str, config: EncoderSpec | Mapping[str, Any]) -> Encoder:
    """A randomly initialised encoder; ``name`` is used in error messages only.

    Raises:
        ConfigError: unknown, missing or mistyped keys, all in one message; sizes that do not fit each other.
    """
    spec = encoder_spec(name, config)
    architecture = spec.bound_architecture(f"encoder {name}.architecture")
    try:
        return BUILDERS[spec.kind](architecture, spec.features)
    except (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"encoder {name}.architecture: no encoder can be built from it ({reason})") from error
