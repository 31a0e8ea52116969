"""Sinc resampling of a batch of clips of different lengths, with cached kernels."""

from __future__ import annotations

import functools
import math

import torch
import torchaudio
from torch import Tensor

from src.audio.blocks import by_clip

FILTER_WIDTH = 6
ROLLOFF = 0.99
MAX_KERNEL_ROWS = 2000
"""Reduced target rates above this would need a kernel of hundreds of megabytes; they are gathered instead."""
GATHER_BLOCK = 1 << 16
GROUP = 16
"""Output phases computed by one matrix product; each needs a few taps of the whole kernel's hundreds."""


def resample(samples: Tensor, lengths: Tensor, rate: int, target_rate: int) -> tuple[Tensor, Tensor]:
    """Resample ``samples (batch, n)``, zero beyond ``lengths (batch,)``, from ``rate`` to ``target_rate``.

    Returns the resampled batch, zero beyond the new lengths, and those lengths, ceil(target_rate * n / rate).
    Each clip comes out as it would alone. Windowed sinc: Hann window, width 6, roll-off 0.99.
    """
    if rate == target_rate:
        return samples, lengths
    gcd = math.gcd(rate, target_rate)
    old, new = rate // gcd, target_rate // gcd
    new_lengths = -(-lengths * new // old)
    if GROUP <= new <= MAX_KERNEL_ROWS:
        resampled = by_clip(lambda clips: _banded_resample(clips, old, new), samples)
    elif new < GROUP:
        resampled = _resampler(old, new, samples.device)(samples)
    else:
        resampled = _gather_resample(samples, old, new)
    positions = torch.arange(resampled.shape[-1], device=samples.device)
    return resampled.masked_fill_(positions >= new_lengths[:, None], 0.0), new_lengths


@functools.lru_cache(maxsize=64)
def _resampler(old: int, new: int, device: torch.device) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(old, new, lowpass_filter_width=FILTER_WIDTH, rolloff=ROLLOFF).to(device)


@functools.lru_cache(maxsize=64)
def _bands(old: int, new: int, device: torch.device) -> tuple[int, list[tuple[int, Tensor]]]:
    """The kernel's padding, and for each group of output phases the first tap that is not zero and its weights
    ``(taps, phases)``. In the kernel (new, taps) of torchaudio most weights are zero."""
    resampler = _resampler(old, new, device)
    kernel = resampler.kernel[:, 0]
    bands = []
    for rows in kernel.split(2 * GROUP):
        used = (rows.abs() > 1e-12).any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        bands.append((first, rows[:, first:last].T.contiguous()))
    return int(resampler.width), bands


def _banded_resample(samples: Tensor, old: int, new: int) -> Tensor:
    """The same as :func:`_resampler` by as many small matrix products as there are groups of phases."""
    width, bands = _bands(old, new, samples.device)
    padded = torch.nn.functional.pad(samples, (width, width + old))
    steps = samples.shape[-1] // old + 1
    parts = [padded[:, first:].unfold(-1, len(weights), old)[:, :steps] @ weights for first, weights in bands]
    count = -(-samples.shape[-1] * new // old)
    return torch.cat(parts, dim=-1).flatten(1)[:, :count]


def _gather_resample(samples: Tensor, old: int, new: int) -> Tensor:
    """The same filter evaluated at each output sample, in blocks: slower, but of bounded memory at any rate."""
    cutoff = min(old, new) * ROLLOFF
    half = math.ceil(FILTER_WIDTH * old / cutoff)
    count = -(-samples.shape[-1] * new // old)
    padded = torch.nn.functional.pad(samples, (half, half + 1))
    offsets = torch.arange(-half, half + 2, device=samples.device)
    blocks = []
    for start in range(0, count, GATHER_BLOCK):
        index = torch.arange(start, min(start + GATHER_BLOCK, count), device=samples.device)
        centre, phase = index * old // new, (index * old % new).double() / new
        t = (offsets - phase[:, None]) * (cutoff / old)
        t = t.clamp_(-FILTER_WIDTH, FILTER_WIDTH)
        weights = (torch.sinc(t) * torch.cos(t * (math.pi / FILTER_WIDTH / 2)) ** 2 * (cutoff / old)).float()
        taps = padded[:, (centre[:, None] + offsets + half).clamp_(max=padded.shape[-1] - 1)]
        blocks.append((taps * weights).sum(dim=-1))
    return torch.cat(blocks, dim=-1)
