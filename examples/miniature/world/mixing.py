"""Scenes: drawing one (what, when, how loud) and rendering it to samples that agree with its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.miniature.world.scene import Event, Scene
from examples.miniature.world.sounds import SoundLibrary
from examples.miniature.world.synthesis import SAMPLE_RATE, SYNTHETIC_NAMES, Samples
from examples.miniature.world.vocabulary import BACKGROUNDS, LOUDNESS

MAX_EVENTS = 3
MIN_SECONDS, MAX_SECONDS = 1.0, 4.0
MIN_GAP = 0.25
"""Least distance in seconds between two onsets."""
EVENT_DB = {"loud": -19.0, "soft": -33.0}
"""Level of an event: the root mean square of its loudest 50 ms, in decibels below full scale."""
EVENT_DB_SPREAD = 1.5
NOISE_DB = {"none": None, "faint": -58.0, "strong": -44.0}
NOISE_DB_SPREAD = 1.5
PITCH_SEMITONES = 1.0

_LEAST_SECONDS = {"drum loop": 0.8, "robot voice": 0.5, "rising sweep": 0.9, "falling sweep": 0.9}
_DEFAULT_LEAST = 0.4
_MOST_SECONDS = 1.1
_OVERLAP = (-0.1, 0.15)
_LEVEL_WINDOW = SAMPLE_RATE // 20
_FADE = SAMPLE_RATE // 50
_FILTER_LENGTH = 2 * SAMPLE_RATE
_BANDS_HZ = np.geomspace(60.0, 11_000.0, 9)
_FILTER_AXIS = np.log(np.maximum(np.fft.rfftfreq(_FILTER_LENGTH, 1 / SAMPLE_RATE), 1.0))
_NOISE_LENGTH = int(MAX_SECONDS * SAMPLE_RATE)
_NOISE_CORNER_HZ = 300.0
_NOISE_SHAPE = 1 / (1 + np.fft.rfftfreq(_NOISE_LENGTH, 1 / SAMPLE_RATE) / _NOISE_CORNER_HZ)


@dataclass(frozen=True)
class Variation:
    """How far a recording is changed before it is mixed in.

    ``pitch`` in semitones either way, ``equalizer`` the spread in decibels of a random smooth filter (0: none),
    ``skip`` the most seconds left out at the start of a long one.
    """

    pitch: float = PITCH_SEMITONES
    equalizer: float = 0.0
    skip: float = 0.0


SLIGHT = Variation()


@dataclass(frozen=True)
class Clip:
    """A rendered scene: its words, mono samples (n,) at 24 kHz, and the recording of each event."""

    scene: Scene
    samples: Samples
    recordings: tuple[str, ...]


def draw_clip(
    library: SoundLibrary,
    split: str,
    rng: np.random.Generator,
    events: int | None = None,
    variation: Variation = SLIGHT,
) -> Clip:
    """A random scene of ``split``'s recordings, rendered.

    Args:
        events: number of events, uniform in 1 to 3 if not given.
        variation: how far recordings are changed.
    """
    count = events or int(rng.integers(1, MAX_EVENTS + 1))
    names = [library.names[place] for place in rng.permutation(len(library.names))[:count]]
    drawn = [library.draw(name, split, rng) for name in names]
    sounds = [_vary(name, samples, variation, rng) for name, (_, samples) in zip(names, drawn, strict=True)]
    onsets, lengths, duration = _lay_out(names, [len(sound) / SAMPLE_RATE for sound in sounds], rng)
    loudness = [LOUDNESS[rng.integers(len(LOUDNESS))] for _ in names]
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    samples = _noise(background, round(duration * SAMPLE_RATE), rng)
    for sound, onset, length, level in zip(sounds, onsets, lengths, loudness, strict=True):
        _add(samples, set_level(_cut(sound, length), _spread(EVENT_DB[level], EVENT_DB_SPREAD, rng)), onset)
    placed = zip(names, loudness, onsets, lengths, strict=True)
    scene = Scene(tuple(Event(n, level, round(o, 3), round(s, 3)) for n, level, o, s in placed), background, duration)
    return Clip(scene, np.clip(samples, -1.0, 1.0), tuple(recording for recording, _ in drawn))


def level_db(samples: Samples) -> float:
    """Level in decibels below full scale: root mean square of the loudest 50 ms."""
    window = min(_LEVEL_WINDOW, len(samples))
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    loudest = float((energy[window:] - energy[:-window]).max()) / _LEVEL_WINDOW
    return 10 * float(np.log10(max(loudest, 1e-12)))


def set_level(samples: Samples, decibels: float) -> Samples:
    """``samples`` scaled to a level (see :func:`level_db`)."""
    return samples * np.float32(10 ** ((decibels - level_db(samples)) / 20))


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """Play faster or slower by linear interpolation: pitch up by ``semitones``, length down by the same ratio."""
    ratio = 2 ** (semitones / 12)
    places = np.arange(int(len(samples) / ratio)) * ratio
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def _vary(name: str, samples: Samples, variation: Variation, rng: np.random.Generator) -> Samples:
    """Augment a recording at random. Synthesised classes keep their pitch, which separates the splits."""
    if name not in SYNTHETIC_NAMES:
        skipped = int(rng.uniform(0, variation.skip) * SAMPLE_RATE) if variation.skip else 0
        if len(samples) - skipped > _MOST_SECONDS * SAMPLE_RATE:
            samples = samples[skipped:]
        samples = shift_pitch(samples, rng.uniform(-variation.pitch, variation.pitch))
    return _equalize(samples, variation.equalizer, rng) if variation.equalizer else samples


def _equalize(samples: Samples, spread: float, rng: np.random.Generator) -> Samples:
    """Apply a random filter that is smooth over octaves."""
    gains = rng.normal(0.0, spread, len(_BANDS_HZ))
    filtered = np.fft.rfft(samples[:_FILTER_LENGTH], _FILTER_LENGTH)
    filtered *= 10 ** (np.interp(_FILTER_AXIS, np.log(_BANDS_HZ), gains) / 20)
    return np.fft.irfft(filtered, _FILTER_LENGTH)[: len(samples)].astype(np.float32)


def _lay_out(
    names: list[str], natural: list[float], rng: np.random.Generator
) -> tuple[list[float], list[float], float]:
    """Onsets, lengths and the total duration in seconds.

    Every event has at least its minimum length before the next one, except for a short overlap; the remaining time is
    distributed at random before, between and after the events.
    """
    whole = [min(seconds, _MOST_SECONDS) for seconds in natural]
    wanted = [_LEAST_SECONDS.get(name, _DEFAULT_LEAST) for name in names]
    least = [min(pair) for pair in zip(whole, wanted, strict=True)]
    overlaps = [rng.uniform(*_OVERLAP) for _ in names[:-1]] + [0.0]
    needs = [max(MIN_GAP, seconds - over) for seconds, over in zip(least, overlaps, strict=True)]
    duration = float(rng.uniform(max(MIN_SECONDS, sum(needs) + 0.05), MAX_SECONDS))
    shares = rng.dirichlet(np.ones(len(names) + 1)) * (duration - sum(needs))
    onsets: list[float] = []
    time = float(shares[0])
    for need, share in zip(needs, shares[1:], strict=True):
        onsets.append(time)
        time += need + float(share)
    ends = [*onsets[1:], duration]
    lengths = [
        max(min(seconds, end + over - onset), 0.0)
        for seconds, onset, end, over in zip(whole, onsets, ends, overlaps, strict=True)
    ]
    return onsets, lengths, round(duration, 3)


def _cut(samples: Samples, seconds: float) -> Samples:
    """The first ``seconds`` with a short fade at the end."""
    cut = samples[: max(int(seconds * SAMPLE_RATE), 1)].copy()
    fade = min(_FADE, len(cut))
    cut[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return cut


def _add(samples: Samples, sound: Samples, onset: float) -> None:
    start = round(onset * SAMPLE_RATE)
    stop = min(start + len(sound), len(samples))
    samples[start:stop] += sound[: stop - start]


def _spread(decibels: float, spread: float, rng: np.random.Generator) -> float:
    return decibels + rng.uniform(-spread, spread)


def _noise(background: str, length: int, rng: np.random.Generator) -> Samples:
    """Noise that falls off above 300 Hz (like the rumble of a room, unlike the hiss class) at its level."""
    decibels = NOISE_DB[background]
    if decibels is None:
        return np.zeros(length, np.float32)
    noise = _shaped_noise(length, rng)
    rms = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
    return noise * np.float32(10 ** (_spread(decibels, NOISE_DB_SPREAD, rng) / 20) / rms)


def _shaped_noise(length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    spectrum = rng.standard_normal((2, len(_NOISE_SHAPE)), dtype=np.float32)
    noise = np.fft.irfft((spectrum[0] + 1j * spectrum[1]) * _NOISE_SHAPE, _NOISE_LENGTH)
    return noise[:length].astype(np.float32)
