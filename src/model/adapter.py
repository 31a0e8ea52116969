"""Adapters: from the chosen layers of one encoder to one stream of the LLM's width.

:class:`AudioAdapter` fuses the layers, runs the body that ``adapter_name`` chooses and projects to the LLM's width. A
body of your own derives from :class:`AdapterBody`, a layer fusion from :class:`LayerFusion`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.common.log import get_logger
from src.model.config import AdapterConfig, LayerFusionConfig
from src.model.conformer import Conformer
from src.model.layers import build_norm, length_mask, zero_beyond

log = get_logger(__name__)


class LayerFusion(nn.Module, ABC):
    """Several encoder layers to one stream; ``Config`` is the dataclass of ``layer_fusion_config``."""

    Config: ClassVar[type[LayerFusionConfig]] = LayerFusionConfig

    def __init__(self, config: Any, n_layers: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """(layers, ..., frames, dim) to (..., frames, dim)."""


class WeightedAverage(LayerFusion):
    """Softmax-weighted sum over layers, one scalar logit a layer (zero at the start, so a plain mean)."""

    def __init__(self, config: LayerFusionConfig, n_layers: int) -> None:
        super().__init__(config, n_layers)
        self.layer_weights = nn.Parameter(torch.zeros(n_layers))

    def forward(self, states: Tensor) -> Tensor:
        """See :meth:`LayerFusion.forward`. The sum is in the weights' precision also under autocast, as published."""
        weights = self.layer_weights.softmax(dim=0)
        with torch.autocast(states.device.type, enabled=False):
            if states.dtype == weights.dtype:
                return torch.tensordot(weights, states, dims=1)
            # Layer by layer: the backward pass then keeps the states as they are, not a copy in float32.
            fused = weights[:1] * states[0]
            for place in range(1, len(weights)):
                fused = fused + weights[place : place + 1] * states[place]
            return fused


class AdapterBody(nn.Module, ABC):
    """One stream to another, before the projection to the LLM's width.

    ``Config`` is the dataclass of its options, derived from :class:`AdapterConfig`; ``output_dim`` the width of what
    it gives.
    """

    Config: ClassVar[type[AdapterConfig]] = AdapterConfig
    output_dim: int

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__()

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Frames that count in the output, from (batch,) frames in the input; here the same."""
        return lengths

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(batch, frames, input_dim) to (batch, frames', output_dim).

        With ``lengths`` (batch,) each item is computed as if it were alone; without, padding counts as audio.
        """


@dataclass(frozen=True, kw_only=True)
class DownsamplerConformerConfig(AdapterConfig):
    """Options of :class:`DownsamplerConformer`; ``conf`` ones are those of its Conformer.

    With ``frame_rate``, embeddings a second, the encoder's own rate decides ``downsampler_depth``: as many halvings
    as come closest, none where the encoder is slower.
    """

    adapter_embedding_dim: int
    use_downsampler: bool = True
    downsampler_depth: int = 1
    norm_type: Literal["batch", "layer"] = "batch"
    use_conformer: bool = True
    n_conf_layers: int = 1
    conformer_heads: int = 16
    conf_linear_dims: int = 4096
    conf_depth_kernel_size: int = 5
    conf_dropout: float = 0.1
    conf_conv_first: bool = False
    frame_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_rate is not None and not self.frame_rate > 0:
            raise ValueError(f"frame_rate is {self.frame_rate}, expected embeddings a second, such as 25")
        if self.downsampler_depth < 1:
            raise ValueError(f"downsampler_depth is {self.downsampler_depth}, expected at least 1")

    def for_rate(self, name: str, measure: Callable[[], float]) -> DownsamplerConformerConfig:
        """See :meth:`AdapterConfig.for_rate`."""
        if self.frame_rate is None:
            return self
        given = measure()
        depth = max(0, round(math.log2(given / self.frame_rate)))
        log.info("encoder %s: %.1f frames a second, %.1f embeddings", name, given, given / 2**depth)
        if given < self.frame_rate / math.sqrt(2):  # on a scale of halvings, nearer to half the rate than to it
            log.warning("encoder %s: adapters do not raise its rate to %g a second", name, self.frame_rate)
        return dataclasses.replace(self, use_downsampler=depth > 0, downsampler_depth=max(1, depth))


class DownsamplerConformer(AdapterBody):
    """Input projection, strided convolutions that halve the frame rate, optional Conformer.

    ``downsampler_depth`` halvings. Every stage is convolution, GELU, norm. An odd number of frames gets one zero
    frame before the first convolution, and very short inputs as many as the strides need.
    """

    Config = DownsamplerConformerConfig

    def __init__(self, config: DownsamplerConformerConfig, input_dim: int) -> None:
        super().__init__(config, input_dim)
        dim, norm_type = config.adapter_embedding_dim, config.norm_type
        self.output_dim = dim
        # Without the downsampler, downsampler_depth keeps its default, which must not shorten the stream.
        self.depth = config.downsampler_depth if config.use_downsampler else 0
        self.input_proj = nn.Identity() if input_dim == dim else nn.Linear(input_dim, dim)
        if config.use_downsampler:
            convolutions = [nn.Conv1d(dim, 2 * dim, 3, padding=1), nn.Conv1d(2 * dim, dim, 4, stride=2, padding=1)]
            convolutions += [nn.Conv1d(dim, dim, 4, stride=2, padding=1) for _ in range(self.depth - 1)]
            self.downsampler = nn.Sequential(
                *(nn.Sequential(conv, nn.GELU(), build_norm(norm_type, conv.out_channels)) for conv in convolutions)
            )
        self.encoder = None
        if config.use_conformer:
            self.encoder = Conformer(
                dim,
                config.conformer_heads,
                config.conf_linear_dims,
                config.n_conf_layers,
                config.conf_depth_kernel_size,
                config.conf_dropout,
                config.conf_conv_first,
            )

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Frames that count in the output, from (batch,) frames in the input."""
        return lengths // 2**self.depth

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """See :meth:`AdapterBody.forward`."""
        x = self.input_proj(x)
        frames, least = x.shape[1], max(2, 2**self.depth)
        if lengths is not None:
            x = zero_beyond(x, lengths)
            # The frames an item has alone, its own zero frames included: they take part in what follows.
            lengths = (lengths + lengths % 2).clamp(min=least)
        x = F.pad(x, (0, 0, 0, max(frames + frames % 2, least) - frames))
        if self.depth:
            x = x.transpose(1, 2)
            for index, stage in enumerate(self.downsampler):
                conv, activation, norm = cast(nn.Sequential, stage)
                x = activation(conv(x))
                mask = None
                if lengths is not None:
                    lengths = lengths if index == 0 else lengths // 2
                    mask = length_mask(lengths, x.shape[2], x.device)
                x = norm(x, mask)
                if mask is not None:  # bias and norm give padding a value, which the next convolution would read
                    x = x.masked_fill(~mask[:, None, :], 0.0)
            x = x.transpose(1, 2)
        if self.encoder is None:
            return x
        return self.encoder(x, None if lengths is None else length_mask(lengths, x.shape[1], x.device))


@dataclass(frozen=True, kw_only=True)
class MlpConfig(AdapterConfig):
    """Options of :class:`MlpBody`."""

    adapter_embedding_dim: int
    hidden_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_dim != self.adapter_embedding_dim:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} must equal adapter_embedding_dim {self.adapter_embedding_dim}"
            )


class MlpBody(AdapterBody):
    """Linear, GELU, linear, GELU on every frame."""

    Config = MlpConfig

    def __init__(self, config: MlpConfig, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.output_dim = config.adapter_embedding_dim
        self.model = nn.Sequential(
            nn.Linear(input_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, self.output_dim),
            nn.GELU(),
        )

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """See :meth:`AdapterBody.forward`; every frame by itself."""
        return self.model(x)


class IdentityBody(AdapterBody):
    """Returns the stream as the encoder gave it."""

    def __init__(self, config: AdapterConfig, input_dim: int) -> None:
        super().__init__(config, input_dim)
        given = config.adapter_embedding_dim
        if config.use_llm_proj and given not in (None, input_dim):
            raise ValueError(
                f"adapter_embedding_dim is {given} but an identity adapter keeps the encoder's {input_dim}"
            )
        self.output_dim = input_dim

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Returns ``x``."""
        return x


class AudioAdapter(nn.Module):
    """Layers of one encoder to one stream, ``output_dim`` wide.

    ``pre_average`` fuses the layers first and runs one body; otherwise each layer has a body of its own and the
    results are fused. Raises ValueError when the widths of config and encoder disagree.
    """

    def __init__(self, config: AdapterConfig, encoder_dim: int, llm_dim: int, mask_padding: bool = True) -> None:
        super().__init__()
        self.config = config
        self.mask_padding = mask_padding
        if config.encoder_embedding_dim not in (None, encoder_dim):
            raise ValueError(
                f"encoder_embedding_dim is {config.encoder_embedding_dim} but the encoder is {encoder_dim} wide"
            )
        if config.audio_encoder_layers is None:
            raise ValueError("audio_encoder_layers is missing; name the encoder layers to read")
        self.layers = config.audio_encoder_layers
        layers = len(self.layers)
        if layers > 1:  # a softmax over one layer would be a parameter without effect
            assert config.layer_fusion_config is not None, "checked by AdapterConfig"
            self.layer_fusion = config.layer_fusion_config.module()(config.layer_fusion_config, layers)
        build_body = config.module()
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
        # Encoders with chunks of a fixed length return frames that no clip of the batch has.
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
