"""Cache of the frozen encoders' hidden states between epochs and runs, for small data sets.

As long as padding is masked, a clip's states depend only on its audio, the encoder's weights, its feature settings
and the layers read. The key of a clip is a hash of its audio, in a folder named by a hash of the other three.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import Waveform
from src.common.errors import ConfigError
from src.common.log import get_logger
from src.model.audio_embedder import AudioEmbedder
from src.model.llm import weights_digest

log = get_logger(__name__)


@dataclass(frozen=True)
class EncodedStates:
    """States in place of an encoder's features: ``states (layers, batch, frames, dim)``, ``lengths (batch,)``."""

    states: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncodedStates:
        """The states on another device; the lengths stay on the CPU, like those of the encoders."""
        return EncodedStates(self.states.to(device, non_blocking=non_blocking), self.lengths)


class EncodersOrStates(nn.Module):
    """Takes the place of an audio embedder's encoders and passes cached states through."""

    def __init__(self, encoders: nn.Module) -> None:
        super().__init__()
        self.computed = encoders

    def forward(
        self, features: Mapping[str, Any], layers: Mapping[str, tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Like the encoders: states name -> (layers, batch, frames, dim) and lengths name -> (batch,)."""
        ready = {name: item for name, item in features.items() if isinstance(item, EncodedStates)}
        if len(ready) < len(features):
            return self.computed(features, layers)
        states = {name: item.states for name, item in ready.items()}
        return states, {name: item.lengths for name, item in ready.items()}


class EncoderCache:
    """States of all clips so far, up to a size; a clip in the cache need not be decoded again.

    With a ``directory``, states of earlier runs are read from it (memory-mapped) and :meth:`write` adds those that
    this run computed.
    """

    def __init__(
        self,
        audio_embedder: AudioEmbedder,
        extractor: AudioFeatureExtractor,
        megabytes: int,
        directory: Path | None = None,
        precision: str = "float32",
    ) -> None:
        """Replace the audio embedder's encoders; ``precision`` is part of the key of stored states.

        Raises :class:`ConfigError` if a clip's states are not independent of its batch.
        """
        if not audio_embedder.config.mask_padding:
            raise ConfigError(
                "encoder_cache_mb needs model.config.mask_padding=true: otherwise a clip's states depend on its batch"
            )
        self.extractor = extractor
        self._specs = audio_embedder.config.encoders
        self.layers = {name: audio_embedder.config.layers(name) for name in sorted(audio_embedder.config.encoders)}
        self._encoders = audio_embedder.audio_encoder
        audio_embedder.audio_encoder = EncodersOrStates(audio_embedder.audio_encoder)  # type: ignore[assignment]
        self._precision = precision
        self._room = megabytes * 2**20
        self._new: dict[str, dict[str, Tensor]] = {name: {} for name in self.layers}
        self._folders = {} if directory is None else {name: directory / self._digest(name) for name in self.layers}
        self._stored = {name: _open_parts(self._folders.get(name)) for name in self.layers}

    def _digest(self, name: str) -> str:
        encoder = self._encoders.encoders[name]
        settings = f"{self.extractor.configs[name]} {self.layers[name]} {self._precision}"
        if ":" in self._specs[name].module_name:  # weights alone do not tell classes of one's own apart
            settings += f" {self._specs[name].module_name} {self._specs[name].architecture}"
        return hashlib.sha256(f"{weights_digest(encoder)} {settings}".encode()).hexdigest()[:16]

    def __contains__(self, clip: object) -> bool:
        """Whether the states of all encoders are stored."""
        return all(clip in self._new[name] or clip in self._stored[name] for name in self.layers)

    def __call__(self, clips: Sequence[str], waveforms: Sequence[Waveform | None]) -> dict[str, EncodedStates]:
        """States of a batch by encoder: clips with a waveform are encoded, the others read from the cache."""
        fresh = [place for place, waveform in enumerate(waveforms) if waveform is not None]
        computed = self._encode([waveform for waveform in waveforms if waveform is not None])
        result = {}
        for name in self.layers:
            new, stored = self._new[name], self._stored[name]
            states = dict(zip(fresh, computed[name], strict=True)) if fresh else {}
            for place, clip in enumerate(clips):
                if place not in states:
                    states[place] = new[clip] if clip in new else stored[clip].get_tensor(clip)
                elif clip not in new and clip not in stored and states[place].nbytes <= self._room:
                    self._room -= states[place].nbytes
                    # a copy: the slice would keep the whole batch, padding included
                    new[clip] = states[place].detach().cpu().clone()
            result[name] = _pad([states[place] for place in range(len(clips))])
        return result

    @torch.no_grad()
    def _encode(self, waveforms: list[Waveform]) -> dict[str, list[Tensor]]:
        """For each encoder a tensor (layers, frames_i, dim) per clip."""
        if not waveforms:
            return {}
        features = self.extractor(waveforms)
        states, lengths = self._encoders(features, self.layers)
        return {
            # max: a clip shorter than one frame of an encoder keeps one, as the adapters cannot take none
            name: [states[name][:, place, : max(1, count)] for place, count in enumerate(lengths[name].tolist())]
            for name in self.layers
        }

    def write(self) -> None:
        """Store this process's new states in the directory, as one file per encoder; nothing without a directory."""
        for name, folder in self._folders.items():
            if not self._new[name]:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            # named by its clips: a run that is repeated replaces its file, and processes write different ones
            label = hashlib.sha256("".join(sorted(self._new[name])).encode()).hexdigest()[:16]
            temporary = folder / f".{label}.{os.getpid()}.tmp"
            save_file(self._new[name], temporary)
            temporary.replace(folder / f"{label}.safetensors")
            log.info("%d clips' states of %s kept in %s", len(self._new[name]), name, folder)


def _open_parts(folder: Path | None) -> dict[str, Any]:
    """Clip -> open file that contains it; clips of a file that cannot be read are computed again."""
    stored: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        try:
            part = safe_open(path, framework="pt")
        except Exception as error:  # safetensors raises its own type and several of Python's
            log.warning("%s is passed over: %s", path, error)
            continue
        stored.update(dict.fromkeys(part.keys(), part))
    return stored


def _pad(items: Sequence[Tensor]) -> EncodedStates:
    lengths = torch.tensor([item.shape[1] for item in items])
    states = items[0].new_zeros(items[0].shape[0], len(items), int(lengths.max()), items[0].shape[2])
    for place, item in enumerate(items):
        states[:, place, : item.shape[1]] = item
    return EncodedStates(states, lengths)
