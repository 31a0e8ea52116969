"""Settings of the feature extractors, as read from an encoder's YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EncoderKind = Literal["whisper", "w2vbert", "sslam", "muq"]

MINIMUM_SECONDS = 0.04
"""Shortest clip in seconds; shorter ones are zero-padded to it, or some encoder would give no frame at 25 Hz."""


@dataclass(frozen=True)
class FeatureConfig:
    """What one encoder wants of a waveform.

    Args:
        kind: which features: ``whisper`` (log-mel), ``w2vbert`` and ``sslam`` (Kaldi filterbanks), ``muq`` (samples).
        sample_rate: samples per second the clip is resampled to.
        chunk_frames: feature frames of one encoder chunk (for ``muq`` samples). ``whisper``, ``sslam`` and ``muq``
            pad each clip to a multiple of it.
        num_mels: mel bins of one frame; ``muq`` has none here, it computes its own mel inside the encoder.
        minimum_seconds: shorter clips are zero-padded to this length.
    """

    kind: EncoderKind
    sample_rate: int
    chunk_frames: int
    num_mels: int = 128
    minimum_seconds: float = MINIMUM_SECONDS

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for lengths that no extractor can use."""
        for name in ("sample_rate", "chunk_frames", "num_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        if self.minimum_seconds < MINIMUM_SECONDS:
            raise ValueError(f"minimum_seconds: got {self.minimum_seconds}, expected at least {MINIMUM_SECONDS}")

    @property
    def minimum_samples(self) -> int:
        """Samples that every clip has at least, after resampling and padding."""
        return round(self.minimum_seconds * self.sample_rate)
