"""Fusions that put a few latents, read from the conditional streams, in front of the main stream."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from src.model.fusion.resampler import Resampler, ResamplerOptions
from src.model.fusion.streams import Streams


class _LatentFusion(nn.Module):
    """Shared frame: [start separator, latents, end separator, main stream]."""

    total_latents: int

    def __init__(self, stream_dims: dict[str, int], llm_dim: int, main: str, conditional: tuple[str, ...]) -> None:
        super().__init__()
        if stream_dims[main] != llm_dim:
            raise ValueError(
                f"main_encoder {main!r} gives {stream_dims[main]} wide frames; the LLM's width is {llm_dim}"
            )
        self.main_encoder = main
        self.conditional_encoders = conditional
        self.cond_start_emb = nn.Parameter(torch.randn(1, llm_dim))
        self.cond_end_emb = nn.Parameter(torch.randn(1, llm_dim))

    def calc_length(self, streams: Streams) -> Tensor:
        """Main frames, all latents and two separators."""
        return streams.lengths[self.main_encoder] + self.total_latents + 2

    def _join(self, latents: list[Tensor], main: Tensor) -> Tensor:
        batch = main.shape[0]
        start, end = (emb.expand(batch, -1, -1) for emb in (self.cond_start_emb, self.cond_end_emb))
        return torch.cat([start, *latents, end, main], dim=1)


class PerceiverFusion(_LatentFusion):
    """One resampler over all conditional streams, joined in time; all must be as wide as the LLM."""

    def __init__(
        self,
        stream_dims: dict[str, int],
        llm_dim: int,
        main_encoder: str,
        conditional_encoders: tuple[str, ...],
        **options: Any,
    ) -> None:
        super().__init__(stream_dims, llm_dim, main_encoder, conditional_encoders)
        wrong = [
            f"{name} is {stream_dims[name]} wide" for name in conditional_encoders if stream_dims[name] != llm_dim
        ]
        if wrong:
            raise ValueError(f"fusion_type 'perceiver' needs every stream to be {llm_dim} wide: {', '.join(wrong)}")
        self.perceiver = Resampler(llm_dim, ResamplerOptions(**options))
        self.total_latents = self.perceiver.options.num_latents
        self.out_proj = nn.Linear(self.perceiver.options.num_latent_channels, llm_dim)

    def forward(self, streams: Streams) -> Tensor:
        """(batch, latents + 2 + frames, llm_dim)."""
        joined = torch.cat([streams.values[name] for name in self.conditional_encoders], dim=1)
        mask = torch.cat([streams.key_mask(name, self.main_encoder) for name in self.conditional_encoders], dim=1)
        latents = self.out_proj(self.perceiver(joined, mask))
        return self._join([latents], streams.values[self.main_encoder])


class MultiPerceiverFusion(_LatentFusion):
    """One resampler for each conditional stream, of its own width, masked by its own lengths."""

    def __init__(
        self,
        stream_dims: dict[str, int],
        llm_dim: int,
        main_encoder: str,
        conditional_encoders: tuple[str, ...],
        conditional_embedding_dim: int | tuple[int, ...] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(stream_dims, llm_dim, main_encoder, conditional_encoders)
        self.perceiver, self.out_proj = nn.ModuleDict(), nn.ModuleDict()
        self.total_latents = 0
        for index, name in enumerate(conditional_encoders):
            expected = _pick(conditional_embedding_dim, index)
            if expected not in (None, stream_dims[name]):
                raise ValueError(
                    f"conditional_embedding_dim of {name} is {expected}, its stream is {stream_dims[name]} wide"
                )
            own = ResamplerOptions(**{key: _pick(value, index) for key, value in options.items()})
            self.perceiver[name] = Resampler(stream_dims[name], own)
            self.out_proj[name] = nn.Linear(own.num_latent_channels, llm_dim)
            self.total_latents += own.num_latents

    def forward(self, streams: Streams) -> Tensor:
        """(batch, all latents + 2 + frames, llm_dim)."""
        own = dataclasses.replace(streams, own_masks=True)
        latents = []
        for name in self.conditional_encoders:
            read = self.perceiver[name](streams.values[name], own.key_mask(name, self.main_encoder))
            latents.append(self.out_proj[name](read))
        return self._join(latents, streams.values[self.main_encoder])


def _pick(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, tuple) else value
