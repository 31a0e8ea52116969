"""Sinc resampling of a batch of clips of different lengths: bounded in time and memory for every pair of rates."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torchaudio
from torch import Tensor

from src.audio.spectral import by_clip, zero_beyond

T = TypeVar("T")
FILTER_WIDTH = 6
ROLLOFF = 0.99
MOST_DENSE = 1 << 22
"""Weights of torchaudio's kernel, mostly zeros, up to which it is made; beyond, only those that are not zero are."""
# The kernel grows with the product of both rates: 16,001 Hz, which any header may state, would take gigabytes.
# https://github.com/pytorch/audio/issues/2414, https://github.com/vllm-project/vllm/pull/56842
GROUP = 16
"""Output phases computed by one matrix product; each needs a few taps of the whole kernel's hundreds."""
CACHE_BYTES = 64 << 20


def resample(samples: Tensor, lengths: Tensor, rate: int, target_rate: int) -> tuple[Tensor, Tensor]:
    """Resample ``samples (batch, n)``, zero beyond ``lengths (batch,)``, from ``rate`` to ``target_rate``.

    Returns the resampled batch, zero beyond the new lengths, and those lengths, ceil(target_rate * n / rate).
    Each clip comes out as it would alone. Windowed sinc: Hann window, width 6, roll-off 0.99.
    """
    if rate == target_rate:
        return samples, lengths
    gcd = math.gcd(rate, target_rate)
    old, new = rate // gcd, target_rate // gcd
    new_lengths = resampled_lengths(lengths, rate, target_rate)
    if new < GROUP:  # one group would be the whole kernel
        resampled = _resampler(old, new, samples.device)(samples)
    else:
        resampled = by_clip(lambda clips: _banded_resample(clips, old, new), samples)
    return zero_beyond(resampled, new_lengths), new_lengths


def resampled_lengths(lengths: Tensor, rate: int, target_rate: int) -> Tensor:
    """Samples at ``target_rate`` of clips of ``lengths (batch,)`` samples at ``rate``."""
    gcd = math.gcd(rate, target_rate)
    return -(-lengths * (target_rate // gcd) // (rate // gcd))


def _half_width(old: int, new: int) -> int:
    return math.ceil(FILTER_WIDTH * old / (min(old, new) * ROLLOFF))


class _Kept:
    """Kernels used last, bounded in bytes: clients choose the rates."""

    def __init__(self, most: int) -> None:
        self._most, self._size = most, 0
        self._items: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], T], size_of: Callable[[T], int]) -> T:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                found: T = self._items[key][0]
                return found
        made = make()  # not under the lock: a large kernel must not make other clips wait
        size = size_of(made)
        with self._lock:
            if key not in self._items and size <= self._most:
                self._items[key] = (made, size)
                self._size += size
                while self._size > self._most:
                    self._size -= self._items.popitem(last=False)[1][1]
        return made

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._size


_kept = _Kept(CACHE_BYTES)


def _resampler(old: int, new: int, device: torch.device) -> torchaudio.transforms.Resample:
    def make() -> torchaudio.transforms.Resample:
        return torchaudio.transforms.Resample(old, new, lowpass_filter_width=FILTER_WIDTH, rolloff=ROLLOFF).to(device)

    return _kept.get((old, new, device), make, lambda made: _bytes(made.kernel))


def _bands(old: int, new: int, device: torch.device) -> tuple[int, list[tuple[int, Tensor]]]:
    """The kernel's padding, and for each group of output phases the first tap that is not zero and its weights
    ``(taps, phases)``. In the kernel (new, taps) of torchaudio most weights are zero."""
    dense = new * (old + 2 * _half_width(old, new)) <= MOST_DENSE
    make = _bands_of_kernel if dense else _bands_alone
    size_of: Callable[[Any], int] = lambda made: sum(_bytes(weights) for _, weights in made[1])  # noqa: E731
    return _kept.get((old, new, device, "bands"), lambda: make(old, new, device), size_of)


def _bands_of_kernel(old: int, new: int, device: torch.device) -> tuple[int, list[tuple[int, Tensor]]]:
    resampler = _resampler(old, new, device)
    kernel = resampler.kernel[:, 0]
    bands = []
    for rows in kernel.split(2 * GROUP):
        used = (rows.abs() > 1e-12).any(dim=0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        bands.append((first, rows[:, first:last].T.contiguous()))
    return int(resampler.width), bands


def _bands_alone(old: int, new: int, device: torch.device) -> tuple[int, list[tuple[int, Tensor]]]:
    """The same weights by the same formula, without those that are zero: nearly all of them at odd rates."""
    cutoff, width = min(old, new) * ROLLOFF, _half_width(old, new)
    reach = FILTER_WIDTH * old / cutoff
    bands = []
    for start in range(0, new, GROUP):
        end = min(start + GROUP, new)
        first = max(0, math.floor(start * old / new - reach) + width)
        last = min(2 * width + old, math.ceil((end - 1) * old / new + reach) + width + 1)
        taps = torch.arange(first - width, last - width, dtype=torch.float64)[:, None] / old
        t = (taps - torch.arange(start, end, dtype=torch.float64)[None] / new) * cutoff
        t = t.clamp_(-FILTER_WIDTH, FILTER_WIDTH)
        weights = torch.sinc(t) * torch.cos(t * (math.pi / FILTER_WIDTH / 2)) ** 2 * (cutoff / old)
        bands.append((first, weights.float().to(device)))
    return width, bands


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _banded_resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Result of torchaudio's kernel, computed by as many small matrix products as there are groups of phases."""
    width, bands = _bands(old, new, samples.device)
    padded = torch.nn.functional.pad(samples, (width, width + old))
    steps = samples.shape[-1] // old + 1
    parts = [padded[:, first:].unfold(-1, len(weights), old)[:, :steps] @ weights for first, weights in bands]
    count = -(-samples.shape[-1] * new // old)
    return torch.cat(parts, dim=-1).flatten(1)[:, :count]
