"""Channels to one, and the checks that must come after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.audio.errors import AudioError
from src.common.log import get_logger

_log = get_logger(__name__)
SILENT = 1e-4
"""A mean with less than this share of the energy that independent channels would leave (-40 dB) is cancelled out."""
LARGEST = 1e6
"""Samples beyond it (120 dB above full scale) overflow when their spectrum is squared."""


def to_mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over channels of ``samples (channels, n)``, ``(n,)``.

    Where the channels cancel each other (antiphase), the loudest channel is returned: their mean would be silence.
    """
    if samples.shape[0] == 1:
        mono: NDArray[np.float32] = samples[0]
        return mono
    levels = ChannelLevels()
    mean = levels.mean(samples)[0]
    return samples[levels.loudest] if levels.cancelled(mean) else mean


class ChannelLevels:
    """Energy of each channel, summed over blocks that come one after the other."""

    def __init__(self) -> None:
        self._energy: Any = 0.0

    def mean(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean over the channels of ``block (channels, n)``, ``(1, n)``; their energies are counted."""
        if block.shape[0] == 1:
            return block
        with np.errstate(over="ignore", invalid="ignore"):  # check_range looks at the result
            self._energy = self._energy + np.einsum("cn,cn->c", block, block)
            mean = block[0] + block[1]  # row by row: a third of the time of block.mean(axis=0)
            for row in block[2:]:
                mean += row
            mean /= np.float32(len(block))
        return mean[None]

    @property
    def loudest(self) -> int:
        """The channel with the most energy."""
        return int(self._energy.argmax())

    def cancelled(self, mean: NDArray[np.float32]) -> bool:
        """Whether the channels' ``mean (n,)`` is silent though they are not; says so in the log."""
        energy = self._energy / len(self._energy) ** 2
        with np.errstate(over="ignore", invalid="ignore"):
            silent = bool(np.dot(mean, mean) < SILENT * energy.sum())
        if silent:
            _log.warning(
                "the channels of a clip cancel each other (antiphase): channel %d is used instead of their mean",
                self.loudest,
            )
        return silent


def check_range(samples: NDArray[np.float32], name: str) -> None:
    """Raise :class:`AudioError` if samples are not finite, or so large that they do not stay so."""
    if samples.size:
        check_extremes((float(samples.min()), float(samples.max())), name)


def check_extremes(extremes: Sequence[float], name: str) -> None:
    """As :func:`check_range`, by the least and greatest samples."""
    if not all(map(math.isfinite, extremes)):
        raise AudioError(f"{name}: holds samples that are not finite (NaN or infinity); replace it or leave it out")
    peak = max(map(abs, extremes), default=0.0)
    if peak > LARGEST:
        raise AudioError(
            f"{name}: holds samples up to {peak:.3g}, which do not stay finite in features (expected about -1 to 1); "
            "replace it or leave it out"
        )
