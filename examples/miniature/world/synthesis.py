"""Synthesises the sound classes beep, rising sweep, falling sweep and hiss with random parameters.

The classes also differ in timbre and envelope, as recorded ones do. Each has a main frequency, whose range is divided
into cells on a logarithmic axis. A cell belongs to one split, so "unseen" means new frequencies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from examples.miniature.world.vocabulary import SOUND_NAMES

SAMPLE_RATE = 24_000
SYNTHETIC_NAMES = ("beep", "rising sweep", "falling sweep", "hiss")
SPLITS = ("train", "validation", "test")
_CELLS = 20
_CELL_SPLIT = tuple({3: "validation", 1: "test"}.get(cell % 5, "train") for cell in range(_CELLS))
_RANGES = {
    "beep": (700.0, 2800.0),
    "rising sweep": (250.0, 900.0),
    "falling sweep": (1200.0, 3600.0),
    "hiss": (2500.0, 6500.0),
}
assert set(SYNTHETIC_NAMES) <= set(SOUND_NAMES)

Samples = NDArray[np.float32]


def main_frequency(name: str, split: str, rng: np.random.Generator) -> float:
    """A frequency in Hz from the cells of ``name``'s range that belong to ``split``."""
    cells = [cell for cell, owner in enumerate(_CELL_SPLIT) if owner == split]
    place = (rng.choice(cells) + rng.random()) / _CELLS
    low, high = _RANGES[name]
    return float(low * (high / low) ** place)


def split_of_frequency(name: str, frequency: float) -> str:
    """The split whose cell contains ``frequency`` (Hz)."""
    low, high = _RANGES[name]
    cell = int(np.log(frequency / low) / np.log(high / low) * _CELLS)
    return _CELL_SPLIT[min(max(cell, 0), _CELLS - 1)]


def synthesize(name: str, frequency: float, rng: np.random.Generator) -> Samples:
    """One sound of the family ``name`` with this main frequency: mono at 24 kHz, 0.35 to 1.1 s long, peak 1."""
    make = {"beep": _beep, "rising sweep": _rising, "falling sweep": _falling, "hiss": _hiss}[name]
    samples = make(frequency, rng)
    return (samples / max(float(np.abs(samples).max()), 1e-9)).astype(np.float32)


def _time(seconds: float) -> NDArray[np.float64]:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _edges(samples: NDArray[np.float64], attack: float, release: float) -> NDArray[np.float64]:
    """Fade in over ``attack`` and out over ``release`` seconds."""
    shaped = samples.copy()
    rise, fall = max(int(attack * SAMPLE_RATE), 1), max(int(release * SAMPLE_RATE), 1)
    shaped[:rise] *= np.linspace(0, 1, rise)
    shaped[-fall:] *= np.linspace(1, 0, fall)
    return shaped


def _tone(phase: NDArray[np.float64], shares: tuple[float, ...]) -> NDArray[np.float64]:
    """A sine and its harmonics 2, 3, ... with these amplitudes."""
    return sum((share * np.sin(order * phase) for order, share in enumerate(shares, start=2)), np.sin(phase))


def _beep(frequency: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Two to four equal pulses of one pitch, with odd harmonics."""
    tone = _tone(2 * np.pi * frequency * _time(rng.uniform(0.35, 0.8)), (0.0, rng.uniform(0.1, 0.4)))
    pulses = int(rng.integers(2, 5))
    gate = np.zeros_like(tone)
    length = len(tone) / pulses
    for pulse in range(pulses):
        start, stop = int(pulse * length), int((pulse + 0.65) * length)
        gate[start:stop] = _edges(np.ones(stop - start), 0.005, 0.01)
    return tone * gate


def _sweep(start: float, stop: float, seconds: float, shares: tuple[float, ...]) -> NDArray[np.float64]:
    place = np.linspace(0, 1, int(seconds * SAMPLE_RATE))
    phase = 2 * np.pi * np.cumsum(start * (stop / start) ** place) / SAMPLE_RATE
    return _tone(phase, shares)


def _rising(frequency: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A nearly pure tone that rises by a factor of 2.5 to 5 and grows louder."""
    tone = _sweep(frequency, frequency * rng.uniform(2.5, 5.0), rng.uniform(0.45, 0.9), (rng.uniform(0, 0.1),))
    return _edges(tone * np.linspace(rng.uniform(0.1, 0.3), 1, len(tone)), 0.02, 0.03)


def _falling(frequency: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A buzzing tone that falls by a factor of 2.5 to 5 and fades out."""
    shares = (rng.uniform(0.5, 0.7), rng.uniform(0.3, 0.5))
    tone = _sweep(frequency, frequency / rng.uniform(2.5, 5.0), rng.uniform(0.45, 0.9), shares)
    return _edges(tone * np.linspace(1, rng.uniform(0.1, 0.3), len(tone)), 0.01, 0.04)


def _hiss(frequency: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise in a band above ``frequency`` that fades in and out."""
    time = _time(rng.uniform(0.5, 1.1))
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    axis = np.fft.rfftfreq(len(time), 1 / SAMPLE_RATE)
    top = min(frequency * rng.uniform(1.8, 3.0), 11_500.0)
    spectrum *= 1 / (1 + (frequency / np.maximum(axis, 1)) ** 8) / (1 + (axis / top) ** 8)
    return _edges(np.fft.irfft(spectrum, len(time)), rng.uniform(0.05, 0.15), rng.uniform(0.05, 0.3))
