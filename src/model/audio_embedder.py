"""The audio embedder: encoders, adapters, fusion and separators. It knows the LLM by its width only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.common.errors import ConfigError, UserError
from src.model.adapter import AudioAdapter
from src.model.config import AudioEmbedderConfig
from src.model.encoders.base import Encoder
from src.model.encoders.load import build_encoder, load_encoder
from src.model.fusion import AudioFusion, Streams
from src.model.layers import init_weights

ENCODER_PREFIX = "audio_encoder."


class EncoderSet(nn.Module):
    """The frozen encoders by name: always in eval mode, always without gradients."""

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: encoders[name] for name in sorted(encoders)})
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> EncoderSet:
        """Stays in eval mode whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, features: Mapping[str, EncoderFeatures], layers: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Hidden states name -> (layers, batch, frames, dim) and lengths name -> (batch,), on the CPU.

        Under autocast the states have its precision: adapters begin with a linear layer or convolution, which would
        cast them anyhow, and 30 s take 42 MB instead of 84 from the four encoders of ALARM-CA.
        """
        states, lengths = {}, {}
        for name, encoder in self.encoders.items():
            found, lengths[name] = run_encoder(encoder, features[name], layers[name])
            device = found.device.type
            precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else found.dtype
            states[name] = found.to(precision)
        return states, lengths


@torch.no_grad()
def run_encoder(encoder: Any, batch: EncoderFeatures, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Hidden states (layers, batch, frames, dim) of one encoder, and lengths (batch,) on the CPU."""
    # Lengths become slice bounds: read from a GPU one by one, each would wait for the work before it.
    return encoder(batch.features, batch.mask, layers), encoder.calc_length(batch.lengths).cpu()


class AdapterSet(nn.Module):
    """One adapter per encoder. Frozen ones stay in eval mode; with ``update_frozen_bn_stats`` their batch norms go on
    updating, as in the published code."""

    def __init__(self, adapters: Mapping[str, AudioAdapter], update_frozen_bn_stats: bool = False) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({name: adapters[name] for name in sorted(adapters)})
        self.update_frozen_bn_stats = update_frozen_bn_stats
        self.frozen: set[str] = set()

    def freeze(self, names: Iterable[str]) -> None:
        """Stop training the named adapters. Raises :class:`ConfigError` for a name that is not there."""
        names = list(names)
        unknown = [name for name in names if name not in self.adapters]
        if unknown:
            raise ConfigError(
                f"frozen_adapters_names: unknown {', '.join(unknown)}; known: {', '.join(self.adapters)}"
            )
        for name in names:
            self.adapters[name].requires_grad_(False)
        self.frozen.update(names)
        self.train(self.training)

    def train(self, mode: bool = True) -> AdapterSet:
        """As usual, but frozen adapters go to eval mode so that their batch norms keep still."""
        super().train(mode)
        if not self.update_frozen_bn_stats:
            for name in self.frozen:
                self.adapters[name].eval()
        return self

    def forward(
        self, states: dict[str, Tensor], lengths: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams name -> (batch, frames, dim) and lengths name -> (batch,)."""
        streams, out = {}, {}
        for name, adapter in self.adapters.items():
            state = states[name]
            # an adapter may have no weights of its own (identity); then those of any other say the precision
            parameter = next(adapter.parameters(), next(self.parameters(), None))
            if parameter is not None and not torch.is_autocast_enabled(state.device.type):
                state = state.to(parameter.dtype)
            with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.frozen):
                streams[name] = adapter(state, lengths[name])
            out[name] = adapter.calc_length(lengths[name])  # type: ignore[operator]
        return streams, out


class AudioEmbedder(nn.Module):
    """Features of several encoders to one embedding sequence an item, ``llm_dim`` wide.

    Parameter names are the published ones below ``model.``. With ``config.mask_padding`` an item's embedding does not
    depend on the rest of its batch.
    """

    def __init__(self, config: AudioEmbedderConfig, llm_dim: int, encoders: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.llm_dim = llm_dim
        self.audio_encoder = EncoderSet(encoders)
        # In sorted order, whatever that of the configuration: it decides which random numbers new weights get.
        adapters = {name: _build_adapter(name, config, encoders[name], llm_dim) for name in sorted(encoders)}
        self.audio_adapter = AdapterSet(adapters, config.frozen_adapters_drift)
        dims = {name: adapter.output_dim for name, adapter in adapters.items()}
        try:
            self.audio_fusion = AudioFusion(config.audio_fusion_config, dims, llm_dim, config.mask_padding)
        except ValueError as error:
            raise ConfigError(f"model.config.audio_fusion_config: {error}") from error
        # Adapters and fusion only: encoders have their weights, and separators are drawn below.
        init_weights(self.audio_adapter, config.init_std)
        init_weights(self.audio_fusion, config.init_std)
        if not config.use_explicit_audio_tokens:
            self.audio_start_emb = nn.Parameter(torch.randn(1, llm_dim))
            self.audio_end_emb = nn.Parameter(torch.randn(1, llm_dim))
        self._fusion_frozen = False
        self.layers: dict[str, tuple[int, ...]] = {name: adapter.layers for name, adapter in adapters.items()}
        """Hidden states that are read, by encoder name."""

    def forward(self, features: Mapping[str, EncoderFeatures]) -> list[Tensor]:
        """Embeddings without separators: one (frames_i, llm_dim) tensor an item, at least one frame each.

        Raises :class:`UserError` when an encoder's features are missing.
        """
        missing = [name for name in self.layers if name not in features]
        if missing:
            raise UserError(
                f"audio embedder: features for {', '.join(missing)} are missing; got {', '.join(features)}"
            )
        on_device = {name: features[name].to(self.device, non_blocking=True) for name in self.layers}
        return self.fuse(*self.audio_encoder(on_device, self.layers))

    def fuse(self, states: dict[str, Tensor], lengths: dict[str, Tensor]) -> list[Tensor]:
        """As :meth:`forward`, from the encoders' hidden states in :attr:`layers` and their lengths (on the CPU)."""
        if self.config.mask_padding:  # encoders with chunks of a fixed length return frames that no clip has
            states = {name: value[:, :, : max(1, *lengths[name].tolist())] for name, value in states.items()}
        fused, frames = self.audio_fusion(*self.audio_adapter(states, lengths))
        # at least one frame, so that a clip shorter than a frame does not vanish from the prompt
        return [item[: max(1, count)] for item, count in zip(fused, frames.tolist(), strict=True)]

    def calc_length(self, lengths: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (batch,) of clips with ``lengths`` (batch,) feature frames by encoder name, without separators.

        No tensor of the model is read, so it may be on the meta device.
        """
        encoders: Mapping[str, Any] = dict(self.audio_encoder.encoders.items())
        adapters: Mapping[str, Any] = dict(self.audio_adapter.adapters.items())
        adapted = {name: adapters[name].calc_length(encoders[name].calc_length(lengths[name])) for name in encoders}
        streams = Streams({}, adapted, self.config.mask_padding)
        return self.audio_fusion.fusion_model.calc_length(streams).clamp(min=1)

    def with_separators(self, frames: Tensor) -> Tensor:
        """Embeddings (frames, llm_dim) of a clip with its learned separators, if there are any, around them."""
        marks = self.separators()
        return frames if marks is None else torch.cat([marks[0].to(frames), frames, marks[1].to(frames)])

    @property
    def device(self) -> torch.device:
        """Where the audio embedder's parameters live."""
        return next(self.parameters()).device

    def separators(self) -> tuple[Tensor, Tensor] | None:
        """Learned rows (1, llm_dim) before and after the audio; None when the tags are part of the text."""
        if self.config.use_explicit_audio_tokens:
            return None
        return self.audio_start_emb, self.audio_end_emb

    def freeze_encoders(self) -> None:
        """Stop training all encoders (they are built that way)."""
        self.audio_encoder.requires_grad_(False)

    def freeze_adapters(self, names: Iterable[str] | None = None) -> None:
        """Stop training the named adapters, or all: weights, layer weights, projection and batch-norm statistics."""
        self.audio_adapter.freeze(self.audio_adapter.adapters if names is None else names)

    def freeze_fusion(self) -> None:
        """Stop training the fusion; gradients still pass through to adapters that are trained."""
        self.audio_fusion.requires_grad_(False)
        self._fusion_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> AudioEmbedder:
        """Train mode for what is trained; frozen parts stay in eval mode."""
        super().train(mode)
        if self._fusion_frozen:
            self.audio_fusion.eval()
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """State of adapters, fusion and separators, frozen or not; encoders are left out."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(ENCODER_PREFIX)}


def _build_adapter(name: str, config: AudioEmbedderConfig, encoder: Any, llm_dim: int) -> AudioAdapter:
    where = f"model.config.audio_adapter_config.{name}"
    layers = config.layers(name)
    wrong = [layer for layer in layers if not 0 <= layer < encoder.num_states]
    if wrong:
        raise ConfigError(
            f"{where}.audio_encoder_layers: {name} has hidden states 0 to {encoder.num_states - 1}, got {wrong}"
        )
    try:
        settings = dataclasses.replace(config.audio_adapter_config[name], audio_encoder_layers=layers)
        settings = settings.for_rate(name, lambda: encoder.frame_rate(config.encoders[name].features))
        return AudioAdapter(settings, encoder.width, llm_dim, config.mask_padding)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def build_audio_embedder(
    config: AudioEmbedderConfig,
    llm_dim: int,
    encoder_weights: bool = True,
    stored: Callable[[str], Encoder] | None = None,
) -> AudioEmbedder:
    """Encoders with their trained weights (random ones without ``encoder_weights``), new adapters and fusion.

    ``stored`` gives the encoders of a checkpoint that contains them. Raises :class:`UserError` for weights that
    cannot be found and for parts whose widths do not fit.
    """
    make = load_encoder if encoder_weights else build_encoder
    encoders = {name: make(name, spec) if stored is None else stored(name) for name, spec in config.encoders.items()}
    return AudioEmbedder(config, llm_dim, encoders)


def build_feature_extractor(config: AudioEmbedderConfig, device: torch.device | str = "cpu") -> AudioFeatureExtractor:
    """The feature extractor of an audio embedder's encoders."""
    return AudioFeatureExtractor({name: spec.features for name, spec in config.encoders.items()}, device)
