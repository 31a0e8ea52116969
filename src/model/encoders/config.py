"""What an encoder's YAML says: features, architecture, layers used, where the weights are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.audio.config import EncoderKind, FeatureConfig
from src.common.config import bind_dataclass
from src.common.errors import ConfigError

MOST_LAYERS = 1000
MOST_UNITS = 1_000_000
"""Larger sizes were never meant: a configuration can come from anybody."""


@dataclass(frozen=True)
class WhisperArchitecture:
    """Whisper encoder sizes; mel bins and positions follow from the feature settings."""

    width: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    dropout: float = 0.0


@dataclass(frozen=True)
class W2VBertArchitecture:
    """w2v-BERT 2.0 sizes; relative positions reach ``left_positions`` back and ``right_positions`` ahead."""

    width: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    conv_kernel: int = 31
    left_positions: int = 64
    right_positions: int = 8
    dropout: float = 0.0


@dataclass(frozen=True)
class SSLAMArchitecture:
    """SSLAM (EAT) sizes. ``max_time_patches`` bounds the position table (16 feature frames a patch).

    ``unused_tensors`` holds the published classifier (``num_classes``), which the forward never reads, so that
    published checkpoints load and save whole.
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0
    max_time_patches: int = 768
    num_classes: int = 527
    unused_tensors: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class MuQArchitecture:
    """MuQ sizes: ``conv_channels`` of the 2-D front end over ``num_mels`` bins of
    a ``fft_size``-point spectrum, then a conformer.

    ``unused_tensors`` holds the published pretraining parts, which the forward never reads, so that published
    checkpoints load and save whole.
    """

    width: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    conv_channels: int
    num_mels: int = 128
    fft_size: int = 2048
    conv_kernel: int = 31
    unused_tensors: bool = False
    dropout: float = 0.0


Architecture = WhisperArchitecture | W2VBertArchitecture | SSLAMArchitecture | MuQArchitecture
ARCHITECTURES: dict[EncoderKind, type[Architecture]] = {
    "whisper": WhisperArchitecture,
    "w2vbert": W2VBertArchitecture,
    "sslam": SSLAMArchitecture,
    "muq": MuQArchitecture,
}


@dataclass(frozen=True)
class WeightSource:
    """Where encoder weights are: a local folder (relative to the repository root too) or a Hugging Face Hub id."""

    source: str
    revision: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder as configured (``src/configs/model/encoder/*.yaml``).

    Attributes:
        features: how waveforms become its input, and the chunk length it is run on.
        architecture: sizes, the keys of the kind's architecture dataclass.
        layers: hidden states the adapter reads, by index into the encoder's list of states.
        weights: where the trained weights are.
    """

    features: FeatureConfig
    architecture: dict[str, Any]
    layers: tuple[int, ...]
    weights: WeightSource

    def __post_init__(self) -> None:
        """Check the architecture's keys and sizes; raises ``ConfigError`` naming each wrong one."""
        sizes = dataclasses.asdict(self.bound_architecture())
        wrong = [
            f"architecture.{name} is {value}, expected up to {MOST_LAYERS if name == 'num_layers' else MOST_UNITS}"
            for name, value in sizes.items()
            if value > (MOST_LAYERS if name == "num_layers" else MOST_UNITS)
        ]
        if wrong or len(self.layers) > MOST_LAYERS:
            raise ConfigError("; ".join(wrong) or f"layers has {len(self.layers)} entries")

    @property
    def kind(self) -> EncoderKind:
        """Which of the four encoders this is."""
        return self.features.kind

    def bound_architecture(self, where: str = "architecture") -> Architecture:
        """The architecture as its dataclass."""
        return bind_dataclass(ARCHITECTURES[self.kind], self.architecture, where)


def encoder_spec(name: str, config: EncoderSpec | Mapping[str, Any]) -> EncoderSpec:
    """``config`` as a checked :class:`EncoderSpec`; raises ``ConfigError`` with every wrong key below ``name``."""
    if isinstance(config, EncoderSpec):
        return config
    return bind_dataclass(EncoderSpec, config, f"encoder {name}")
