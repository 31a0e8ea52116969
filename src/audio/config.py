"""Settings of the feature extractors, as read from an encoder's YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from src.common.modules import ModuleRegistry

FEATURES = ModuleRegistry(
    "features",
    None,
    {
        "whisper": "src.audio.whisper:whisper_features",
        "w2vbert": "src.audio.w2vbert:w2vbert_features",
        "sslam": "src.audio.sslam:sslam_features",
        "muq": "src.audio.muq:muq_features",
        "samples": "src.audio.muq:muq_features",
        "waveform": "src.audio.pretrained:waveform_features",
        "spectrogram": "src.audio.pretrained:spectrogram_features",
    },
)
"""Functions from ``samples (batch, n)``, ``lengths (batch,)`` and a :class:`FeatureConfig` to features, mask and
lengths, as described at :class:`src.audio.features.EncoderFeatures`."""

FEATURE_LENGTHS = ModuleRegistry(
    "feature lengths",
    None,
    {
        "whisper": "src.audio.whisper:whisper_lengths",
        "w2vbert": "src.audio.w2vbert:w2vbert_lengths",
        "sslam": "src.audio.sslam:sslam_lengths",
        "muq": "src.audio.muq:muq_lengths",
        "samples": "src.audio.muq:muq_lengths",
        "waveform": "src.audio.muq:muq_lengths",
        "spectrogram": "src.audio.pretrained:spectrogram_lengths",
    },
)
"""Functions from ``lengths (batch,)`` in samples and a :class:`FeatureConfig` to the lengths that the function of the
same name in :data:`FEATURES` returns. Kinds of a user's own have none: their features are computed for it."""

MINIMUM_SECONDS = 0.04
"""Shortest clip in seconds; shorter ones are zero-padded to it, or some encoder would give no frame at 25 Hz."""


@dataclass(frozen=True)
class FeatureConfig:
    """Features that one encoder reads from a waveform.

    Args:
        kind: which features: ``whisper`` (log-mel), ``w2vbert`` and ``sslam`` (Kaldi filterbanks), ``muq`` and
            ``samples`` (the samples themselves), ``waveform`` (samples, normalised as ``extractor`` says),
            ``spectrogram`` (by transformers' ``extractor``), or the import path of a function, see :data:`FEATURES`.
        sample_rate: samples per second the clip is resampled to.
        chunk_frames: feature frames of one encoder chunk (for ``muq`` samples). All but ``w2vbert`` and
            ``waveform`` pad each clip to a multiple of it.
        num_mels: mel bins of one frame; ``muq`` has none here, it computes its own mel inside the encoder.
        minimum_seconds: shorter clips are zero-padded to this length.
        extractor: ``preprocessor_config.json`` of a feature extractor of transformers, for the kinds that read it.
    """

    kind: str
    sample_rate: int
    chunk_frames: int
    num_mels: int = 128
    minimum_seconds: float = MINIMUM_SECONDS
    extractor: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for lengths that no extractor can use, ``ConfigError`` for an unknown kind."""
        FEATURES.path(self.kind, "kind")
        for name in ("sample_rate", "chunk_frames", "num_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        if self.minimum_seconds < MINIMUM_SECONDS:
            raise ValueError(f"minimum_seconds: got {self.minimum_seconds}, expected at least {MINIMUM_SECONDS}")

    @property
    def minimum_samples(self) -> int:
        """Samples that every clip has at least, after resampling and padding."""
        return round(self.minimum_seconds * self.sample_rate)
