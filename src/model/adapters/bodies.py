"""Adapter bodies: what happens to one stream between layer choice and projection to the LLM."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from src.model.adapters.conformer import Conformer
from src.model.adapters.norms import build_norm
from src.model.config import AdapterConfig
from src.model.masks import length_mask, zero_beyond


class DownsamplerConformer(nn.Module):
    """Input projection, strided convolutions that halve the frame rate, optional Conformer.

    ``downsampler_depth`` halvings. Every stage is convolution, GELU, norm. An odd number of frames gets one zero
    frame before the first convolution, and very short inputs as many as the strides need.
    """

    def __init__(
        self,
        input_dim: int,
        adapter_embedding_dim: int,
        use_downsampler: bool,
        downsampler_depth: int,
        norm_type: str,
        use_conformer: bool,
        n_conf_layers: int,
        conformer_heads: int,
        conf_linear_dims: int,
        conf_depth_kernel_size: int,
        conf_dropout: float,
        conf_conv_first: bool,
    ) -> None:
        super().__init__()
        dim = adapter_embedding_dim
        self.output_dim = dim
        self.depth = downsampler_depth if use_downsampler else 0
        self.input_proj = nn.Identity() if input_dim == dim else nn.Linear(input_dim, dim)
        if use_downsampler:
            stages = [_stage(nn.Conv1d(dim, 2 * dim, 3, padding=1), norm_type)]
            for index in range(self.depth):
                stages.append(
                    _stage(nn.Conv1d(2 * dim if index == 0 else dim, dim, 4, stride=2, padding=1), norm_type)
                )
            self.downsampler = nn.Sequential(*stages)
        self.encoder = None
        if use_conformer:
            self.encoder = Conformer(
                dim,
                conformer_heads,
                conf_linear_dims,
                n_conf_layers,
                conf_depth_kernel_size,
                conf_dropout,
                conf_conv_first,
            )

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Frames that count in the output, from (batch,) frames in the input."""
        return lengths // 2**self.depth

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(batch, frames, input_dim) to (batch, frames', dim).

        With ``lengths`` each item is computed as if it were alone; without, padding counts as audio.
        """
        x = self.input_proj(x)
        extra = _even(x.shape[1], 2**self.depth) - x.shape[1]
        if lengths is not None:
            x = zero_beyond(x, lengths)
            # The frames an item has alone, its own zero frames included: they take part in what follows.
            lengths = ((lengths + 1) // 2 * 2).clamp(min=max(2, 2**self.depth))
        x = F.pad(x, (0, 0, 0, extra))
        if self.depth:
            x, lengths = self._downsample(x.transpose(1, 2), lengths)
            x = x.transpose(1, 2)
        if self.encoder is None:
            return x
        return self.encoder(x, None if lengths is None else length_mask(lengths, x.shape[1], x.device))

    def _downsample(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for index, stage in enumerate(self.downsampler):
            conv, activation, norm = cast(nn.Sequential, stage)
            x = activation(conv(x))
            mask = None
            if lengths is not None:
                lengths = lengths if index == 0 else lengths // 2
                mask = length_mask(lengths, x.shape[2], x.device)
            x = norm(x, mask)
            if mask is not None:
                x = x.masked_fill(~mask[:, None, :], 0.0)
        return x, lengths


def _stage(conv: nn.Conv1d, norm_type: str) -> nn.Sequential:
    return nn.Sequential(conv, nn.GELU(), build_norm(norm_type, conv.out_channels))


def _even(frames: int, least: int) -> int:
    return max(frames + frames % 2, least, 2)


class MLP(nn.Module):
    """Linear, GELU, linear, GELU on every frame."""

    def __init__(self, input_dim: int, adapter_embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.output_dim = adapter_embedding_dim
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, adapter_embedding_dim), nn.GELU()
        )

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Unchanged lengths."""
        return lengths

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(batch, frames, input_dim) to (batch, frames, dim)."""
        return self.model(x)


class IdentityBody(nn.Module):
    """Nothing: the stream as the encoder gave it."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Unchanged lengths."""
        return lengths

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Returns ``x``."""
        return x


BODIES: dict[str, type[nn.Module]] = {
    "downsampler_conformer": DownsamplerConformer,
    "mlp": MLP,
    "identity": IdentityBody,
}


def build_body(config: AdapterConfig, input_dim: int) -> Any:
    """The adapter body ``config`` asks for, reading ``input_dim`` wide frames."""
    return BODIES[config.adapter_name](input_dim, **config.body_options())
