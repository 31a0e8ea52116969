"""One encoder's adapter: fuse its layers, run the body, project to the LLM's width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from src.model.adapters.bodies import build_body
from src.model.config import AdapterConfig
from src.model.layer_fusion import WeightedAverage


class AudioAdapter(nn.Module):
    """Layers of one encoder to one stream, ``output_dim`` wide.

    ``pre_average`` fuses the layers first and runs one body; otherwise each layer has a body of its own and the
    results are fused. Raises ValueError when the widths of config and encoder disagree.
    """

    def __init__(self, config: AdapterConfig, encoder_dim: int, llm_dim: int, mask_padding: bool = True) -> None:
        super().__init__()
        self.config = config
        self.mask_padding = mask_padding
        _check_widths(config, encoder_dim)
        if config.audio_encoder_layers is None:
            raise ValueError("audio_encoder_layers is missing; name the encoder layers to read")
        self.layers = config.audio_encoder_layers
        layers = len(self.layers)
        if layers > 1:
            self.layer_fusion = WeightedAverage(layers)
        body = build_body(config, encoder_dim)
        self.output_dim: int = body.output_dim
        if config.use_llm_proj:
            self.llm_proj = nn.Linear(body.output_dim, llm_dim)
            self.output_dim = llm_dim
        if config.pre_average:
            self.adapter = body
        else:
            self.adapters = nn.ModuleList([body, *(build_body(config, encoder_dim) for _ in range(layers - 1))])

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Output frames that count, from (batch,) encoder frames."""
        body: Any = self.adapter if self.config.pre_average else self.adapters[0]
        return body.calc_length(lengths)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(layers, batch, frames, encoder_dim), the chosen layers in order, to (batch, frames', output_dim).

        ``lengths`` (batch,) are encoder frames of each item; ``calc_length`` gives those of the output.
        """
        if self.config.trim_extra_padding:
            states = states[:, :, : max(1, int(lengths.max()))]
        own = lengths if self.mask_padding else None
        if self.config.pre_average:
            fused = self.adapter(self._fuse(states), own)
        else:
            fused = self._fuse(torch.stack([body(x, own) for body, x in zip(self.adapters, states, strict=True)]))
        return self.llm_proj(fused) if self.config.use_llm_proj else fused

    def _fuse(self, states: Tensor) -> Tensor:
        return self.layer_fusion(states) if len(self.layers) > 1 else states[0]


def _check_widths(config: AdapterConfig, encoder_dim: int) -> None:
    if config.encoder_embedding_dim not in (None, encoder_dim):
        raise ValueError(
            f"encoder_embedding_dim is {config.encoder_embedding_dim} but the encoder is {encoder_dim} wide"
        )
    given = config.adapter_embedding_dim
    if config.adapter_name == "identity" and config.use_llm_proj and given not in (None, encoder_dim):
        raise ValueError(
            f"adapter_embedding_dim is {given} but an identity adapter keeps the encoder's {encoder_dim}"
        )
