"""w2v-BERT 2.0: filterbank rows at 50 Hz -> states at 50 Hz, padding masked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel
from transformers.masking_utils import create_bidirectional_mask

from src.audio.config import FeatureConfig
from src.model.encoders.base import Encoder, Lengths, conformer_sizes


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


class W2VBertEncoder(Encoder):
    """States: 0 is the projected input with padding zeroed, k the output of layer k; no norm after the last.

    Args:
        backbone: transformers' w2v-BERT model, with relative-key positions and no adapter.
        chunk_frames: feature rows of one chunk (1500 published).
    """

    Config = W2VBertArchitecture
    pads_chunks = False
    unused_prefixes = ("encoder.masked_spec_embed", "encoder.adapter.", "encoder.intermediate_ffn.")

    def __init__(self, backbone: Wav2Vec2BertModel, chunk_frames: int) -> None:
        config = backbone.config
        super().__init__(backbone, chunk_frames, config.hidden_size, config.num_hidden_layers + 1)

    @classmethod
    def from_config(cls, config: W2VBertArchitecture, features: FeatureConfig) -> W2VBertEncoder:
        """A randomly initialised encoder of the given sizes."""
        backbone_config = Wav2Vec2BertConfig(
            **conformer_sizes(config),
            feature_projection_input_dim=2 * features.num_mels,
            position_embeddings_type="relative_key",
            left_max_position_embeddings=config.left_positions,
            right_max_position_embeddings=config.right_positions,
            feat_proj_dropout=config.dropout,
            add_adapter=False,
        )
        return cls(Wav2Vec2BertModel(backbone_config), features.chunk_frames)

    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """See :meth:`Encoder.states`; ``chunks (chunks, rows, 2 * mels)``, ``mask (chunks, rows)``."""
        # The parts are called one by one, as transformers' forward runs all layers before it returns a state.
        hidden, _ = self.encoder.feature_projection(
            chunks.to(self.encoder.feature_projection.layer_norm.weight.dtype)
        )
        hidden = hidden.masked_fill(~mask[..., None], 0.0)
        attention_mask = create_bidirectional_mask(
            config=self.encoder.config, inputs_embeds=hidden, attention_mask=mask
        )
        yield hidden
        for layer in self.encoder.encoder.layers:
            # the convolutions get the mask too: padding would reach real frames through them
            hidden = layer(hidden, attention_mask=attention_mask, conv_attention_mask=mask)
            yield hidden

    def calc_length(self, lengths: Lengths) -> Lengths:
        """One output frame per feature row."""
        return lengths
