"""Audio encoders of transformers: wav2vec 2.0 and its relatives, AST, CLAP's audio tower.

State ``k`` is the input of layer ``k`` and the last state is the model's ``last_hidden_state``, as in transformers'
``hidden_states`` (whose last entry may lack the final norm). Clips are encoded as if each were alone in its batch,
whatever the model's padding does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ClapAudioModel, PreTrainedModel

from src.audio.config import FeatureConfig
from src.model.encoders.backbones import (
    AST_MODEL,
    CLAP_MODEL,
    MASKED_MODELS,
    WAVEFORM_MODELS,
    build_backbone,
    load_backbone,
)
from src.model.encoders.base import Encoder, Lengths
from src.model.encoders.source_settings import complete_from_source

_HOOKED = threading.Lock()
"""Held while hooks are on a backbone's layers; not in the encoder, which could not be copied with it."""


@dataclass(frozen=True)
class PretrainedArchitecture:
    """``config`` is the model's own ``config.json`` (of CLAP the audio part); the sizes are those of its states."""

    width: int
    num_layers: int
    config: dict[str, Any]


class PretrainedEncoder(Encoder):
    """An audio encoder of transformers; a subclass per form of input, chosen by the configuration's model type."""

    Config = PretrainedArchitecture

    def __init__(self, backbone: PreTrainedModel, layers: Sequence[nn.Module], chunk_frames: int, width: int) -> None:
        super().__init__(backbone, chunk_frames, width, len(layers) + 1)
        self.layer_stack = tuple(layers)  # a tuple, so that they are not registered a second time

    @classmethod
    def complete(cls, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        """All from the files of ``source``, see :func:`complete_from_source`; a checkpoint contains it already."""
        return dict(settings) if settings.get("architecture") else complete_from_source(settings, where)

    @classmethod
    def from_config(cls, config: PretrainedArchitecture, features: FeatureConfig) -> PretrainedEncoder:
        """A randomly initialised encoder; raises ValueError for a model type that is not an audio encoder."""
        backbone = build_backbone(config.config)
        encoder = ENCODER_OF[str(backbone.config.model_type)](backbone, features)
        if (encoder.width, encoder.num_states - 1) != (config.width, config.num_layers):
            raise ValueError(
                f"width {config.width} and num_layers {config.num_layers} disagree with config, which gives "
                f"{encoder.width} and {encoder.num_states - 1}"
            )
        return encoder

    @classmethod
    def from_source(
        cls, config: PretrainedArchitecture, features: FeatureConfig, source: str, revision: str | None, where: str
    ) -> PretrainedEncoder:
        """See :meth:`Encoder.from_source`; raises :class:`UserError` for files that are missing or do not fit."""
        backbone = load_backbone(config.config, source, revision, where)
        return ENCODER_OF[str(backbone.config.model_type)](backbone, features)

    def run_backbone(self, layers: Sequence[int], **inputs: Tensor) -> list[Tensor]:
        """States ``layers`` of the backbone for ``inputs``; it stops at the deepest of them.

        The layers' inputs are recorded by hooks: transformers' ``output_hidden_states`` would keep every state of a
        batch in memory and always run the whole model.
        """
        kept: dict[int, Tensor] = {}
        deepest, last = max(layers), self.num_states - 1

        def keep(index: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                kept[index] = args[0] if args else kwargs["hidden_states"]
                if index == deepest:
                    raise _DeepestReached

            return hook

        with _HOOKED:
            hooks = [
                self.layer_stack[index].register_forward_pre_hook(keep(index), with_kwargs=True)
                for index in sorted(set(layers))
                if index < last
            ]
            try:
                kept[last] = self.encoder(**inputs).last_hidden_state
            except _DeepestReached:
                pass
            finally:
                for hook in hooks:
                    hook.remove()
        return [kept[index] for index in layers]

    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """See :meth:`Encoder.states`."""
        yield from self._select(chunks, mask, range(self.num_states))


class WaveformEncoder(PretrainedEncoder):
    """Samples to states: wav2vec 2.0, HuBERT, WavLM, data2vec-audio and others with a convolutional feature encoder.

    Args:
        backbone: transformers' model without adapter.
        features: its chunk length is in samples.
    """

    pads_chunks = False
    unused_prefixes = ("encoder.masked_spec_embed",)

    def __init__(self, backbone: PreTrainedModel, features: FeatureConfig) -> None:
        config = backbone.config
        super().__init__(backbone, backbone.encoder.layers, features.chunk_frames, config.hidden_size)
        self.strides = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.masked = config.model_type in MASKED_MODELS and not getattr(config, "conv_pos_batch_norm", False)
        # Shared with the layers below, whose forward is called by transformers and gets no lengths.
        self._valid = ValidFrames()
        first = backbone.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            first.layer_norm = ClipGroupNorm(norm, self._valid)
        # data2vec has several convolutions over positions: what the first gives for padding would reach the next
        for layer in getattr(backbone.encoder.pos_conv_embed, "layers", ()):
            layer.register_forward_pre_hook(self._valid.zero_padding)

    def calc_length(self, lengths: Lengths) -> Lengths:
        """Frames of the convolutions without padding, chunk by chunk: 1499 for 30 s at 16 kHz."""
        whole, rest = lengths // self.chunk_frames, lengths % self.chunk_frames
        return whole * self._convolved(self.chunk_frames) + self._convolved(rest)

    def _convolved(self, samples: Lengths, convolutions: int | None = None) -> Lengths:
        for kernel, stride in self.strides[:convolutions]:
            samples = (samples - kernel) // stride + 1
        return samples * (samples > 0)

    def _select(self, chunks: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        samples = mask.sum(dim=1)
        frames = self._convolved(samples)
        chunks = chunks.to(self.encoder.feature_extractor.conv_layers[0].conv.weight.dtype)
        states: Tensor | None = None
        used_rows = (frames > 0).nonzero().flatten()
        groups = [used_rows] if self.masked and len(used_rows) else []
        if not self.masked:  # nothing tells the model what is padding: only clips of one length run together
            groups = [used_rows[samples[used_rows] == length] for length in samples[used_rows].unique()]
        for rows in groups:
            used = chunks.shape[1] if self.masked else int(samples[rows[0]])
            inputs = {"input_values": chunks[rows, :used], "attention_mask": mask[rows, :used].long()}
            self._valid.first, self._valid.last = self._convolved(samples[rows], 1), frames[rows]
            kept = torch.stack(self.run_backbone(layers, **inputs))
            if states is None:
                total = int(self._convolved(chunks.shape[1]))
                states = kept.new_zeros(len(layers), len(chunks), total, self.width)
            states[:, rows, : kept.shape[2]] = kept
        if states is None:  # nothing is as long as the convolutions are wide
            states = chunks.new_zeros(len(layers), len(chunks), int(self._convolved(chunks.shape[1])), self.width)
        return states


class ASTEncoder(PretrainedEncoder):
    """Audio spectrogram transformer. The patches of one step in time follow each other, from low to high bands.

    So the sequence of the published AST is 101 steps times 12 bands for 10.24 s, 118 frames a second. Padding inside
    a chunk is attended, as the model was trained.
    """

    def __init__(self, backbone: PreTrainedModel, features: FeatureConfig) -> None:
        config = backbone.config
        if features.chunk_frames != config.max_length:
            raise ValueError(f"chunk_frames is {features.chunk_frames}, its positions are for {config.max_length}")
        super().__init__(backbone, backbone.layers, features.chunk_frames, config.hidden_size)
        self.bands, self.steps = backbone.embeddings.get_shape(config)
        self.time_stride = int(config.time_stride)

    def calc_length(self, lengths: Lengths) -> Lengths:
        """Patches that begin within the audio."""
        whole, rest = lengths // self.chunk_frames, lengths % self.chunk_frames
        return self.bands * (whole * self.steps + _at_most(-(-rest // self.time_stride), self.steps))

    def _select(self, chunks: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        values = chunks.to(self.encoder.embeddings.patch_embeddings.projection.weight.dtype)
        states = torch.stack(self.run_backbone(layers, input_values=values))
        patches = states[:, :, 2:]  # without class and distillation token
        grid = patches.unflatten(2, (self.bands, self.steps))
        return grid.transpose(2, 3).flatten(2, 3)


class ClapEncoder(PretrainedEncoder):
    """CLAP's audio tower: state 0 is the input of its last stage, state 1 its output.

    Earlier stages have other widths. The sequence of the published model is 32 steps times 2 bands for 10 s, 6.4
    frames a second. Clips are repeated to the length of a chunk, as its feature extractor does.
    """

    def __init__(self, backbone: ClapAudioModel, features: FeatureConfig) -> None:
        tower = backbone.audio_encoder
        super().__init__(backbone, tower.layers[-1:], features.chunk_frames, tower.num_features)
        rows, columns = tower.input_resolutions[-1]
        self.bands, self.steps = rows // tower.freq_ratio, columns * tower.freq_ratio

    def calc_length(self, lengths: Lengths) -> Lengths:
        """Tokens that begin within the audio, repetitions not counted."""
        whole, rest = lengths // self.chunk_frames, lengths % self.chunk_frames
        return self.bands * (whole * self.steps + -(-rest * self.steps // self.chunk_frames))

    def _select(self, chunks: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        values = chunks[:, None].to(self.encoder.audio_encoder.patch_embed.proj.weight.dtype)
        longer = torch.zeros(len(chunks), 1, dtype=torch.bool, device=chunks.device)
        states = self.run_backbone(layers, input_features=values, is_longer=longer)
        return torch.stack([self._in_time(state) for state in states])

    def _in_time(self, state: Tensor) -> Tensor:
        """``(chunks, steps * bands, width)`` of ``(chunks, tokens, width)`` or ``(chunks, width, bands, steps)``.

        The tower folds time into rows of its image; the model unfolds its last state in the same way.
        """
        if state.ndim == 3:
            rows, columns = self.encoder.audio_encoder.input_resolutions[-1]
            image = state.unflatten(1, (rows // self.bands, self.bands, columns))
            return image.permute(0, 1, 3, 2, 4).flatten(1, 3)
        return state.permute(0, 3, 2, 1).flatten(1, 2)


ENCODER_OF: dict[str, Any] = {
    **dict.fromkeys(WAVEFORM_MODELS, WaveformEncoder),
    AST_MODEL: ASTEncoder,
    CLAP_MODEL: ClapEncoder,
}


class _DeepestReached(Exception):
    """Leaves a backbone before the first layer that is not needed."""


class ValidFrames:
    """Frames ``(batch,)`` of the clips that are running: after the first convolution, and after all of them."""

    first: Tensor | None = None
    last: Tensor | None = None

    def zero_padding(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook: ``(batch, channels, frames)`` with zeros in the frames that are padding."""
        (values,) = args
        assert self.last is not None
        return (values * _prefix(self.last, values.shape[-1])[:, None].to(values.dtype),)


class ClipGroupNorm(nn.GroupNorm):
    """Group norm over each clip's own frames.

    transformers takes the statistics over the padded batch, so that padding changes every frame of a clip; the models
    with this norm were trained without padding and have no attention mask
    (https://huggingface.co/docs/transformers/model_doc/wav2vec2, ``return_attention_mask``).
    """

    def __init__(self, norm: nn.GroupNorm, valid: ValidFrames) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.weight, self.bias = norm.weight, norm.bias
        self._valid = valid

    def forward(self, values: Tensor) -> Tensor:
        """``(batch, channels, frames)`` to the same; computed in float32."""
        frames = self._valid.first
        assert frames is not None
        mask = _prefix(frames, values.shape[-1])[:, None, None].float()
        grouped = values.float().unflatten(1, (self.num_groups, -1))
        count = (frames * grouped.shape[2])[:, None, None, None].clamp_min(1)
        mean = (grouped * mask).sum(dim=(2, 3), keepdim=True) / count
        centred = grouped - mean
        variance = (centred.square() * mask).sum(dim=(2, 3), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        return (normed * self.weight.float()[:, None] + self.bias.float()[:, None]).to(self.weight.dtype)


def _prefix(counts: Tensor, frames: int) -> Tensor:
    """Bool ``(batch, frames)``, true in the first ``counts`` frames of each row."""
    return torch.arange(frames, device=counts.device) < counts[:, None]


def _at_most(values: Lengths, limit: int) -> Lengths:
    return values - (values > limit) * (values - limit)
