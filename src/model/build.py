"""A front end and its feature extractor from configuration."""

from __future__ import annotations

from collections.abc import Callable

import torch

from src.audio.features import AudioFeatureExtractor
from src.model.config import FrontEndConfig
from src.model.encoders.base import Encoder
from src.model.encoders.build import build_encoder
from src.model.encoders.weights import load_encoder
from src.model.front_end import AudioFrontEnd


def build_front_end(
    config: FrontEndConfig,
    llm_dim: int,
    encoder_weights: bool = True,
    stored: Callable[[str], Encoder] | None = None,
) -> AudioFrontEnd:
    """Encoders with their trained weights (random ones without ``encoder_weights``), new adapters and fusion.

    ``stored`` gives the encoders of a checkpoint that contains them. Raises :class:`UserError` for weights that
    cannot be found and for parts whose widths do not fit.
    """
    make = load_encoder if encoder_weights else build_encoder
    encoders = {name: make(name, spec) if stored is None else stored(name) for name, spec in config.encoders.items()}
    return AudioFrontEnd(config, llm_dim, encoders)


def build_feature_extractor(config: FrontEndConfig, device: torch.device | str = "cpu") -> AudioFeatureExtractor:
    """The feature extractor of a front end's encoders."""
    return AudioFeatureExtractor({name: spec.features for name, spec in config.encoders.items()}, device)
