"""What hears a clip: one front end, or several one after another (an ensemble)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from src.audio.config import FeatureConfig
from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import Waveform
from src.common.errors import UserError
from src.generation.config import ModelSettings
from src.model.checkpoints import LoadedFrontEnd, load_front_end
from src.model.front_end import run_encoder
from src.model.precision import torch_dtype
from src.model.shared_encoders import EncoderStore, share_encoders

PROBES = (2, 6)
"""Seconds."""


@dataclass
class _SharedEncoder:
    """An encoder, the features it reads, and the front ends that use it: place in the ensemble, name there."""

    encoder: Any
    features: FeatureConfig
    users: list[tuple[int, str]] = field(default_factory=list)
    layers: tuple[int, ...] = ()
    """All hidden states that any of them reads."""


class Ears:
    """Front ends; encoders that several of them have in common run once for all."""

    def __init__(self, loaded: Sequence[LoadedFrontEnd]) -> None:
        self.loaded = list(loaded)
        share_encoders((each.front_end, each.config.config.encoders) for each in self.loaded)
        self._encoders = _distinct_encoders(self.loaded)
        self._extract = AudioFeatureExtractor(
            {str(number): each.features for number, each in enumerate(self._encoders)},
            self.loaded[0].feature_extractor.device,
        )

    @classmethod
    def load(
        cls,
        checkpoints: Sequence[str],
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        encoder_dtype: torch.dtype = torch.float32,
    ) -> Ears:
        """Load checkpoints. Raises :class:`UserError` if one is unusable or they belong to different LLMs.

        ``dtype`` is that of adapters, fusions and separators.
        """
        store = EncoderStore()
        loaded = [
            load_front_end(name, device, dtype, encoder_dtype=encoder_dtype, shared=store) for name in checkpoints
        ]
        llms = {each.config.llm: name for each, name in zip(loaded, checkpoints, strict=True)}
        if len(llms) > 1:
            listed = ", ".join(f"{name} ({llm})" for llm, name in llms.items())
            raise UserError(f"checkpoint_name: an ensemble needs one language model, got {listed}")
        return cls(loaded)

    @property
    def explicit_tags(self) -> list[bool]:
        """For each front end, whether the marks around the audio are text instead of learned rows."""
        return [each.front_end.separators() is None for each in self.loaded]

    def longest(self, positions: int) -> float:
        """Seconds of audio that take more than ``positions`` for certain; found by encoding two short clips."""
        made = [Waveform(torch.zeros(1, 16000 * seconds), 16000) for seconds in PROBES]
        short, long = (sum(map(len, clip)) for clip in self.encode(made))
        rate = (long - short) / (PROBES[1] - PROBES[0])
        return 1.1 * positions / rate if rate > 0 else math.inf

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[Waveform]) -> list[list[Tensor]]:
        """For each clip, one ``(frames, llm_dim)`` tensor a front end, learned separators included, on the CPU."""
        states: list[dict[str, Tensor]] = [{} for _ in self.loaded]
        lengths: list[dict[str, Tensor]] = [{} for _ in self.loaded]
        features = self._extract(waveforms)
        for number, shared in enumerate(self._encoders):
            batch = features[str(number)].to(self.loaded[0].front_end.device)
            computed, frames = run_encoder(shared.encoder, batch, shared.layers)
            for place, name in shared.users:
                wanted = [shared.layers.index(layer) for layer in self.loaded[place].front_end.layers[name]]
                states[place][name], lengths[place][name] = computed[wanted], frames
        heard: list[list[Tensor]] = [[] for _ in waveforms]
        for place, each in enumerate(self.loaded):
            for clip, embedded in zip(heard, each.front_end.fuse(states[place], lengths[place]), strict=True):
                clip.append(each.front_end.enclosed(embedded).cpu())
        return heard


def front_end_dtypes(settings: ModelSettings) -> tuple[torch.dtype, torch.dtype]:
    """Precision of the trained part and of the encoders, as :meth:`Ears.load` takes them."""
    return torch_dtype(settings.front_end_dtype), torch_dtype(settings.encoder_dtype or settings.front_end_dtype)


def _distinct_encoders(loaded: Sequence[LoadedFrontEnd]) -> list[_SharedEncoder]:
    found: dict[int, _SharedEncoder] = {}
    for place, each in enumerate(loaded):
        for name, encoder in each.front_end.audio_encoder.encoders.items():
            spec = each.config.config.encoders[name]
            shared = found.setdefault(id(encoder), _SharedEncoder(encoder, spec.features))
            shared.users.append((place, name))
            shared.layers = tuple(sorted({*shared.layers, *each.front_end.layers[name]}))
    return list(found.values())
