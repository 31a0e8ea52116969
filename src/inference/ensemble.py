"""Encodes clips with one checkpoint, or with several (ensemble)."""

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
from src.model.audio_embedder import run_encoder
from src.model.checkpoints import LoadedEmbedder, load_audio_embedder
from src.model.shared_encoders import EncoderStore, share_encoders

PROBE_SECONDS = (2, 6)
GROUP = 8
"""Clips of similar length that are encoded together."""


@dataclass
class _SharedEncoder:
    """An encoder, its input features, and its users: number of the embedder and the encoder's name there.

    ``layers`` are all hidden states that any of them reads.
    """

    encoder: Any
    features: FeatureConfig
    users: list[tuple[int, str]] = field(default_factory=list)
    layers: tuple[int, ...] = ()


class EmbedderEnsemble:
    """Audio embedders of one or several checkpoints; encoders that they have in common run once for all."""

    def __init__(self, loaded: Sequence[LoadedEmbedder]) -> None:
        self.loaded = list(loaded)
        share_encoders((each.audio_embedder, each.config.config.encoders) for each in self.loaded)
        found: dict[int, _SharedEncoder] = {}
        for number, each in enumerate(self.loaded):
            for name, encoder in each.audio_embedder.audio_encoder.encoders.items():
                features = each.config.config.encoders[name].features
                shared = found.setdefault(id(encoder), _SharedEncoder(encoder, features))
                shared.users.append((number, name))
                shared.layers = tuple(sorted({*shared.layers, *each.audio_embedder.layers[name]}))
        self._encoders = list(found.values())
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
        revision: str | None = None,
    ) -> EmbedderEnsemble:
        """Load checkpoints. Raises :class:`UserError` if one is unusable or they belong to different LLMs.

        ``dtype`` is that of adapters, fusions and separators; ``revision`` that of checkpoints of the Hub.
        """
        store = EncoderStore()
        loaded = [load_audio_embedder(name, device, dtype, revision, encoder_dtype, store) for name in checkpoints]
        llms = {each.config.llm: name for each, name in zip(loaded, checkpoints, strict=True)}
        if len(llms) > 1:
            listed = ", ".join(f"{name} ({llm})" for llm, name in llms.items())
            raise UserError(f"checkpoint_name: an ensemble needs one language model, got {listed}")
        return cls(loaded)

    @property
    def explicit_tags(self) -> list[bool]:
        """For each audio embedder, whether the tags around the audio are text instead of learned embeddings."""
        return [each.audio_embedder.separators() is None for each in self.loaded]

    def max_clip_seconds(self, positions: int) -> float:
        """Seconds of audio above which a clip certainly has more embeddings than ``positions``."""
        # the frame rate follows from encoders, adapters and fusion together: two short clips measure it
        clips = self.encode([Waveform(torch.zeros(1, 16000 * seconds), 16000) for seconds in PROBE_SECONDS])
        short, long = (sum(map(len, clip)) for clip in clips)
        rate = (long - short) / (PROBE_SECONDS[1] - PROBE_SECONDS[0])
        return 1.1 * positions / rate if rate > 0 else math.inf  # a margin for encoders that round lengths down

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[Waveform], to_cpu: bool = True) -> list[list[Tensor]]:
        """For each clip one ``(frames, llm_dim)`` tensor per embedder, learned separators included.

        They are on the CPU, or with ``to_cpu=False`` on the embedders' device.
        """
        # Groups of similar length save the padding of short clips, which is computed for nothing. Without
        # mask_padding a clip's embeddings depend on the padding: the batch stays whole, as in the published system.
        if not all(each.config.config.mask_padding for each in self.loaded):
            return self._encode_together(waveforms, to_cpu)
        order = sorted(range(len(waveforms)), key=lambda index: waveforms[index].duration)
        clips: dict[int, list[Tensor]] = {}
        for begin in range(0, len(order), GROUP):
            group = order[begin : begin + GROUP]
            clips |= zip(group, self._encode_together([waveforms[index] for index in group], to_cpu), strict=True)
        return [clips[index] for index in range(len(waveforms))]

    def _encode_together(self, waveforms: Sequence[Waveform], to_cpu: bool) -> list[list[Tensor]]:
        """As :meth:`encode`, in one batch."""
        states: list[dict[str, Tensor]] = [{} for _ in self.loaded]
        lengths: list[dict[str, Tensor]] = [{} for _ in self.loaded]
        features = self._extract(waveforms)
        for number, shared in enumerate(self._encoders):
            batch = features[str(number)].to(self.loaded[0].audio_embedder.device)
            computed, frames = run_encoder(shared.encoder, batch, shared.layers)
            for user, name in shared.users:
                wanted = [shared.layers.index(layer) for layer in self.loaded[user].audio_embedder.layers[name]]
                states[user][name], lengths[user][name] = computed[wanted], frames
        clips: list[list[Tensor]] = [[] for _ in waveforms]
        for number, each in enumerate(self.loaded):
            fused = each.audio_embedder.fuse(states[number], lengths[number])
            for clip, embedded in zip(clips, fused, strict=True):
                rows = each.audio_embedder.with_separators(embedded)
                clip.append(rows.cpu() if to_cpu else rows)
        return clips
