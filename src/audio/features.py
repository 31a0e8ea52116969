"""Waveforms -> one batch of features per encoder, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.audio.config import FEATURE_LENGTHS, FEATURES, FeatureConfig
from src.audio.resample import resample, resampled_lengths
from src.audio.waveform import Waveform
from src.common.errors import UserError


@dataclass(frozen=True)
class EncoderFeatures:
    """A batch as one encoder reads it.

    Attributes:
        features: ``(batch, frames, dim)`` float32; ``(batch, samples)`` for muq.
        mask: ``(batch, frames)`` int8 (muq has one entry per sample), a prefix of ones per row.
        lengths: ``(batch,)`` int64, the row sums of the mask.
    """

    features: Tensor
    mask: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EncoderFeatures:
        """The same batch on another device."""
        return EncoderFeatures(
            self.features.to(device, non_blocking=non_blocking),
            self.mask.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> EncoderFeatures:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        return EncoderFeatures(self.features.pin_memory(), self.mask.pin_memory(), self.lengths.pin_memory())


class AudioFeatureExtractor:
    """Batched feature extraction for several encoders; a clip's features do not depend on its batch.

    Args:
        configs: feature settings by encoder name.
        device: where the features are computed and returned.
    """

    def __init__(self, configs: Mapping[str, FeatureConfig], device: torch.device | str = "cpu") -> None:
        self.configs = {name: configs[name] for name in sorted(configs)}
        self.device = torch.device(device)

    def to(self, device: torch.device | str) -> AudioFeatureExtractor:
        """Compute on ``device`` from now on; returns itself."""
        self.device = torch.device(device)
        return self

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[Waveform]) -> dict[str, EncoderFeatures]:
        """Features of ``waveforms`` by encoder name, names sorted; always float32.

        Raises:
            UserError: there is no waveform, or one holds no samples.
        """
        if not waveforms:
            raise UserError("audio features: got no waveform, expected at least one")
        for index, waveform in enumerate(waveforms):
            if waveform.samples.numel() == 0:
                raise UserError(f"audio features: waveform {index} of the batch holds no samples; leave it out")
        # Autocast would compute resampling and filterbanks, which are matrix products, in bfloat16: up to 2.3 off.
        with torch.autocast(self.device.type, enabled=False):
            return self._extract(waveforms)

    def lengths(self, samples: int, rate: int) -> dict[str, Tensor]:
        """Lengths ``(1,)`` of a clip's features by encoder name, for ``samples`` samples at ``rate`` per second.

        Nothing else is computed, except for kinds of features that a user has added: theirs are those of silence.
        """
        result = {}
        for name, config in self.configs.items():
            own = resampled_lengths(torch.tensor([samples]), rate, config.sample_rate)
            own = own.clamp_min(config.minimum_samples)
            if config.kind in FEATURE_LENGTHS:
                result[name] = FEATURE_LENGTHS.load(config.kind)(own, config)
            else:
                result[name] = FEATURES.load(config.kind)(torch.zeros(1, int(own)), own, config)[2]
        return result

    def _extract(self, waveforms: Sequence[Waveform]) -> dict[str, EncoderFeatures]:
        by_rate: dict[int, list[int]] = {}
        # clips of one rate are resampled as a batch, once for all encoders of the same rate
        for index, waveform in enumerate(waveforms):
            by_rate.setdefault(waveform.sample_rate, []).append(index)
        groups = [
            (rate, members, *self._stack([waveforms[index].mono for index in members]))
            for rate, members in by_rate.items()
        ]
        resampled: dict[int, tuple[Tensor, Tensor]] = {}
        result = {}
        for name, config in self.configs.items():
            target = config.sample_rate
            if target not in resampled:
                parts = [
                    (members, *resample(samples, lengths, rate, target)) for rate, members, samples, lengths in groups
                ]
                resampled[target] = _joined(parts)
            samples, lengths = resampled[target]
            short = max(0, config.minimum_samples - samples.shape[1])
            samples = torch.nn.functional.pad(samples, (0, short))
            lengths = lengths.clamp_min(config.minimum_samples)
            result[name] = EncoderFeatures(*FEATURES.load(config.kind)(samples, lengths, config))
        return result

    def _stack(self, clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Clips of one rate as ``(batch, n)``, zero beyond their lengths ``(batch,)``."""
        lengths = torch.tensor([len(clip) for clip in clips], device=self.device)
        if len(clips) == 1:
            return clips[0][None].float().to(self.device), lengths
        samples = torch.nn.utils.rnn.pad_sequence([clip.float() for clip in clips], batch_first=True)
        return samples.to(self.device), lengths


def _joined(groups: Sequence[tuple[Sequence[int], Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Clips of several groups at their places in the batch: ``(batch, n)``, zero beyond the lengths ``(batch,)``."""
    if len(groups) == 1:
        return groups[0][1:]
    count = sum(len(members) for members, _, _ in groups)
    batch = groups[0][1].new_zeros(count, max(samples.shape[1] for _, samples, _ in groups))
    all_lengths = groups[0][2].new_zeros(count)
    for members, samples, lengths in groups:
        batch[members, : samples.shape[1]] = samples
        all_lengths[members] = lengths
    return batch, all_lengths
