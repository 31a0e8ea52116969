"""Whisper encoder: log-mel at 100 Hz -> states at 50 Hz. Padding is not masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import dropout, gelu
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as WhisperBackbone

from src.audio.config import FeatureConfig
from src.model.encoders.base import Encoder, Lengths

STRIDE = 2


@dataclass(frozen=True)
class WhisperArchitecture:
    """Whisper encoder sizes; mel bins and positions follow from the feature settings."""

    width: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    dropout: float = 0.0


class WhisperEncoder(Encoder):
    """States: 0 is the input of the first block, k the output of block k, the last one after the final norm.

    Args:
        backbone: transformers' Whisper encoder, with half as many positions as ``chunk_frames``.
        chunk_frames: feature frames of one chunk (3000 published).
    """

    Config = WhisperArchitecture
    unused_prefixes = ("decoder.", "proj_out.")
    cut_tables = ("encoder.embed_positions.weight",)

    def __init__(self, backbone: WhisperBackbone, chunk_frames: int) -> None:
        super().__init__(backbone, chunk_frames, backbone.config.d_model, len(backbone.layers) + 1)

    @classmethod
    def from_config(cls, config: WhisperArchitecture, features: FeatureConfig) -> WhisperEncoder:
        """A randomly initialised encoder of the given sizes."""
        backbone_config = WhisperConfig(
            d_model=config.width,
            encoder_layers=config.num_layers,
            encoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.ffn_dim,
            num_mel_bins=features.num_mels,
            max_source_positions=features.chunk_frames // STRIDE,
            dropout=config.dropout,
        )
        return cls(WhisperBackbone(backbone_config), features.chunk_frames)

    @staticmethod
    def stored_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """See :meth:`Encoder.stored_sizes`."""
        first, inner = shapes.get("encoder.conv1.weight"), shapes.get("encoder.layers.0.fc1.weight")
        if first is None or inner is None:
            return {}
        layers = sum(name.endswith(".fc1.weight") for name in shapes)
        return {"width": first[0], "num_layers": layers, "ffn_dim": inner[0], "num_mels": first[1]}

    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """See :meth:`Encoder.states`; ``chunks (chunks, chunk_frames, mels)``, the mask is not used."""
        backbone = self.encoder
        hidden = gelu(backbone.conv1(chunks.to(backbone.conv1.weight.dtype).transpose(1, 2)))
        hidden = gelu(backbone.conv2(hidden)).transpose(1, 2)
        hidden = hidden + backbone.embed_positions.weight
        hidden = dropout(hidden, backbone.dropout, self.training)
        yield hidden
        for layer in backbone.layers[:-1]:
            hidden = layer(hidden, None)  # no mask: Whisper was trained on clips padded with silence to 30 s
            yield hidden
        yield backbone.layer_norm(backbone.layers[-1](hidden, None))

    def calc_length(self, lengths: Lengths) -> Lengths:
        """Half the feature frames, rounded down."""
        return lengths // STRIDE
