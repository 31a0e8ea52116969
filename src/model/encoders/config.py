"""Settings of an encoder as its YAML states them: class, features, architecture, layers that are read, weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from src.audio.config import FeatureConfig
from src.common.config import bind_dataclass
from src.common.errors import ConfigError
from src.common.modules import ModuleConfig, ModuleRegistry

MOST_LAYERS = 1000
MOST_UNITS = 1_000_000
"""Larger sizes were never meant: a configuration can come from anybody."""

ENCODERS = ModuleRegistry(
    "encoder",
    "src.model.encoders.base:Encoder",
    {
        "whisper": "src.model.encoders.whisper:WhisperEncoder",
        "w2vbert": "src.model.encoders.w2vbert:W2VBertEncoder",
        "sslam": "src.model.encoders.sslam:SSLAMEncoder",
        "muq": "src.model.encoders.muq:MuQEncoder",
        "hf": "src.model.encoders.pretrained:PretrainedEncoder",
    },
)
PINNED_ENCODERS = {
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
    "facebook/w2v-bert-2.0": "da985ba0987f70aaeb84a80f2851cfac8c697a7b",
    "OpenMuQ/MuQ-large-msd-iter": "0562a57814f6f8bbd9fdea0a25921a2fce1a841a",
}
"""Commits of encoders on the Hub, by id: ``weights.source`` alone then chooses another one, unpinned."""


@dataclass(frozen=True)
class WeightSource:
    """Where encoder weights are: a local folder (relative to the repository root too) or a Hugging Face Hub id.

    ``revision`` is a branch, tag or commit on the Hub; None: that of ``PINNED_ENCODERS``, if any.
    """

    source: str
    revision: str | None = None

    def __post_init__(self) -> None:
        """Fill in the pinned commit, and drop one that is pinned for another source."""
        # An override of the source alone keeps the revision of the YAML, a commit of another repository.
        pinned = PINNED_ENCODERS.get(self.source)
        if self.revision is None or self.revision in PINNED_ENCODERS.values():
            object.__setattr__(self, "revision", pinned)


@dataclass(frozen=True)
class EncoderSpec(ModuleConfig):
    """One encoder as configured (``src/configs/model/encoder/*.yaml``).

    Keys that are left out are those of :attr:`Encoder.defaults`, see :meth:`Encoder.complete`.

    Attributes:
        features: how waveforms become its input, and the chunk length it is run on.
        architecture: sizes, the keys of the encoder's ``Config``.
        layers: hidden states the adapter reads, by index into the encoder's list of states.
        weights: where the trained weights are; not needed by encoders without weights of their own.
        encoder_name: short name or import path of the class; None: that of its features, ``features.kind``.
    """

    registry = ENCODERS
    name_key = "encoder_name"

    features: FeatureConfig
    architecture: dict[str, Any]
    layers: tuple[int, ...]
    weights: WeightSource | None = None
    encoder_name: str | None = None

    def __post_init__(self) -> None:
        """Check the architecture's keys and sizes; raises ``ConfigError`` naming each wrong one."""
        sizes = dict(vars(self.bound_architecture()))
        if ":" in self.module_name:  # a checkpoint keeps the defaults of a class that it does not contain
            object.__setattr__(self, "architecture", sizes)
        wrong = [
            f"architecture.{name} is {value}, expected up to {MOST_LAYERS if name == 'num_layers' else MOST_UNITS}"
            for name, value in sizes.items()
            if isinstance(value, (int, float)) and value > (MOST_LAYERS if name == "num_layers" else MOST_UNITS)
        ]
        if self.weights is None and self.module().needs_weights:
            wrong.append("weights: missing, a value is required")
        if wrong or len(self.layers) > MOST_LAYERS:
            raise ConfigError("; ".join(wrong) or f"layers has {len(self.layers)} entries")

    @classmethod
    def choose(cls, mapping: Mapping[str, Any], where: str) -> tuple[type, Mapping[str, Any]]:
        """See :meth:`ModuleConfig.choose`; the class also fills in what it knows."""
        name, key = mapping.get("encoder_name"), "encoder_name"
        if name is None and isinstance(mapping.get("features"), Mapping):
            name, key = mapping["features"].get("kind"), "features.kind"
        if name is None:
            raise ConfigError(
                f"{where}.encoder_name: missing, a value is required; known: {', '.join(ENCODERS.names)}"
            )
        settings = ENCODERS.load(name, f"{where}.{key}").complete(mapping, where)
        chosen = settings.get("encoder_name")  # that of another class where the source is of a kind with its own
        return cls, settings if chosen is None else {**settings, "encoder_name": ENCODERS.stored(chosen)}

    @classmethod
    def foreign_key(cls, key: str, mapping: Mapping[str, Any]) -> str | None:
        """None: options of other encoders belong below ``architecture``."""
        return None

    @property
    def module_name(self) -> str:
        """Short name or import path of the encoder's class."""
        return self.encoder_name or self.features.kind

    def bound_architecture(self, where: str = "architecture") -> Any:
        """The architecture as the dataclass of the encoder's class."""
        return bind_dataclass(self.module().Config, self.architecture, where)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers that bind to the same settings; keys without a value are left out."""
        plain = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        plain = json.loads(json.dumps(plain))  # tuples become lists, as in a file
        if self.features.extractor is None:  # unknown to earlier versions, which read such a checkpoint as well
            del plain["features"]["extractor"]
        return plain


def encoder_spec(name: str, config: EncoderSpec | Mapping[str, Any]) -> EncoderSpec:
    """``config`` as a checked :class:`EncoderSpec`; raises ``ConfigError`` with every wrong key below ``name``."""
    if isinstance(config, EncoderSpec):
        return config
    return bind_dataclass(EncoderSpec, config, f"encoder {name}")
