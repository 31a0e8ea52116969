"""Base of all encoders: cuts time into chunks, runs them as one batch, chooses hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from src.audio.config import FEATURES, FeatureConfig
from src.common.errors import UserError

Lengths = TypeVar("Lengths", int, Tensor)
MEASURED_SECONDS = 30.0


@dataclass(frozen=True)
class NoArchitecture:
    """Architecture of an encoder without sizes to choose."""


class Encoder(nn.Module, ABC):
    """An encoder over fixed chunks of time; chunks are independent of each other and of the rest of the batch.

    A class of your own defines :meth:`from_config`, :meth:`states`, :meth:`calc_length` and, where there are any, its
    settings (``Config``, a frozen dataclass) and :attr:`defaults`; then ``encoder_name: package.module:Class`` in
    YAML chooses it (see ``docs/extending.md``).

    Args:
        encoder: the backbone, whose parameter names are those of the published checkpoints.
        chunk_frames: feature frames of one chunk (samples for MuQ).
        width: size of a hidden state.
        num_states: hidden states the encoder can return.
    """

    encoder: Any
    Config: ClassVar[type] = NoArchitecture
    """Dataclass of the ``architecture`` keys."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings (as in the encoder's YAML) that hold where the configuration leaves them out."""
    needs_weights: ClassVar[bool] = True
    """Whether ``weights`` must be given; false where :meth:`from_config` alone makes the complete encoder."""
    pads_chunks: ClassVar[bool] = True
    """Whether every chunk has the full length; otherwise a batch shorter than a chunk is run at its own length."""
    unused_prefixes: ClassVar[tuple[str, ...]] = ()
    """Tensors of published checkpoints that the forward never reads, by prefix of their name in this module."""
    cut_tables: ClassVar[tuple[str, ...]] = ()
    """Tables of positions by name; of a longer one the first rows are used, for chunks shorter than it covers."""
    float32: ClassVar[tuple[str, ...]] = ("num_batches_tracked",)
    """Endings of names whose tensors keep their precision when the encoder is loaded in another one."""

    def __init__(self, encoder: nn.Module, chunk_frames: int, width: int, num_states: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.chunk_frames = chunk_frames
        self.width = width
        self.num_states = num_states

    @classmethod
    @abstractmethod
    def from_config(cls, config: Any, features: FeatureConfig) -> Encoder:
        """A randomly initialised encoder: ``config`` is an instance of ``Config``."""

    @classmethod
    def from_source(
        cls, config: Any, features: FeatureConfig, source: str, revision: str | None, where: str
    ) -> Encoder | None:
        """The trained encoder, where a library loads it from its source; None: its tensors are read by name."""
        return None

    @classmethod
    def complete(cls, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        """``settings`` (of the encoder's YAML) with :attr:`defaults` for what they leave out.

        Override it where a file decides sizes, features or layers. Raises :class:`ConfigError` starting with
        ``where``.
        """
        complete = {"architecture": {}, **cls.defaults, **settings}
        for key in ("features", "architecture"):
            given, default = settings.get(key), cls.defaults.get(key)
            if isinstance(given, Mapping) and isinstance(default, Mapping):
                complete[key] = {**default, **given}
        return complete

    def forward(self, features: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """Hidden states ``layers`` of a batch, no layer beyond the deepest of them being computed.

        Args:
            features: ``(batch, frames, dim)``; ``(batch, samples)`` for MuQ.
            mask: ``(batch, frames)`` 0/1, a prefix of ones per row.
            layers: indices into the list of states, in the order wanted.

        Returns:
            ``(len(layers), batch, frames_out, width)``. Chunks that are only padding are zero and are not computed.

        Raises:
            UserError: an index outside 0 .. num_states - 1, or none at all.
        """
        wrong = [index for index in layers if not 0 <= index < self.num_states]
        if wrong or not layers:
            raise UserError(
                f"{type(self).__name__}: got layers {list(layers)}, expected indices 0 to {self.num_states - 1}; "
                "fix the encoder's layers in the model config"
            )
        batch, frames = mask.shape
        chunk = self.chunk_frames if self.pads_chunks else min(self.chunk_frames, frames)
        chunks, chunk_masks = split_chunks(features, chunk), split_chunks(mask, chunk)
        used = chunk_masks.any(dim=1)
        if used.all():  # no copy of the chunks then
            states = self._select(chunks, chunk_masks.bool(), layers)
        else:
            kept = self._select(chunks[used], chunk_masks[used].bool(), layers)
            states = kept.new_zeros(len(layers), len(chunks), *kept.shape[2:])
            states[:, used] = kept
        states = states.view(len(layers), batch, -1, self.width)
        return states if self.pads_chunks else states[:, :, : self.calc_length(frames)]

    def _select(self, chunks: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """``(len(layers), chunks, frames_out, width)``."""
        wanted, deepest = set(layers), max(layers)
        kept: dict[int, Tensor] = {}
        for index, state in enumerate(self.states(chunks, mask)):
            if index in wanted:
                kept[index] = state
            if index == deepest:  # states is a generator: deeper layers never run
                break
        return torch.stack([kept[index] for index in layers])

    @abstractmethod
    def states(self, chunks: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """Hidden states of ``chunks (chunks, chunk_frames, dim)`` with ``mask`` bool, computed as they are taken."""

    @abstractmethod
    def calc_length(self, lengths: Lengths) -> Lengths:
        """Output frames of clips of ``lengths`` feature frames."""

    def frame_rate(self, features: FeatureConfig) -> float:
        """Frames a second, measured on the length of half a minute of silence."""
        with torch.device("cpu"):  # the caller may build a model without memory for its tensors
            samples = torch.zeros(1, round(MEASURED_SECONDS * features.sample_rate))
            _, _, lengths = FEATURES.load(features.kind)(samples, torch.tensor([samples.shape[1]]), features)
            return int(self.calc_length(lengths)) / MEASURED_SECONDS

    @staticmethod
    def stored_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Sizes, by their keys in the configuration, that tensors of these names and shapes show; for messages."""
        return {}

    def computed_tensors(self) -> Mapping[str, Tensor]:
        """Tensors of the state dict that follow from the configuration, for checkpoints that do not store them."""
        return {}


def split_chunks(values: Tensor, chunk: int) -> Tensor:
    """``(batch, frames, ...)`` -> ``(batch * chunks, chunk, ...)``, the last chunk zero-padded."""
    missing = -values.shape[1] % chunk
    if missing:
        padding = values.new_zeros(values.shape[0], missing, *values.shape[2:])
        values = torch.cat([values, padding], dim=1)
    return values.reshape(-1, chunk, *values.shape[2:])


def conformer_sizes(config: Any) -> dict[str, Any]:
    """Fields that the configurations of transformers' wav2vec 2.0 conformers share, from an ``architecture``."""
    dropouts = ("hidden_dropout", "activation_dropout", "attention_dropout", "conformer_conv_dropout")
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_dim,
        "conv_depthwise_kernel_size": config.conv_kernel,
        "hidden_act": "swish",
        **dict.fromkeys(dropouts, config.dropout),
        "layerdrop": 0.0,  # by default transformers leaves out layers at random in train mode
    }


def register_unused_weights(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Register zero tensors under dotted names: parts of a published checkpoint that the forward never reads."""
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        owner = module
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(leaf, nn.Parameter(torch.zeros(shape), requires_grad=False))
