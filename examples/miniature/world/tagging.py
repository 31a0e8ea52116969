"""Scenes with labelled time spans, for pretraining the miniature encoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from examples.miniature.world.mixing import SLIGHT, Clip, Variation, draw_clip
from examples.miniature.world.sounds import SoundLibrary
from examples.miniature.world.synthesis import SAMPLE_RATE, Samples
from examples.miniature.world.vocabulary import BACKGROUNDS, LOUDNESS
from src.common.seeds import row_seed

STRONG = Variation(pitch=2.5, equalizer=4.0, skip=0.3)
"""Augmentation that makes a class more varied than its few recordings."""


@dataclass(frozen=True)
class TaggedClip:
    """Mono samples (n,) at 24 kHz, stretches ``(class, loudness, start, end)`` in seconds, and a background class."""

    samples: Samples
    stretches: tuple[tuple[int, int, float, float], ...]
    background: int


def tag(clip: Clip, names: tuple[str, ...]) -> TaggedClip:
    """Numbers for a clip's words: classes index ``names``, loudness ``LOUDNESS``, background ``BACKGROUNDS``."""
    stretches = tuple(
        (names.index(event.name), LOUDNESS.index(event.loudness), event.onset, event.onset + event.duration)
        for event in clip.scene.events
    )
    return TaggedClip(clip.samples, stretches, BACKGROUNDS.index(clip.scene.background))


def tagged_clips(
    library: SoundLibrary, split: str, seed: int, variation: Variation = SLIGHT, full: bool = False
) -> Iterator[TaggedClip]:
    """Endless clips of ``split``; ``full`` prefers three events (more to learn from a second of audio)."""
    rng = np.random.default_rng(seed)
    while True:
        events = int(rng.choice([1, 2, 3, 3])) if full else None
        yield tag(draw_clip(library, split, rng, events, variation), library.names)


def score_sets(library: SoundLibrary, size: int, seed: int) -> dict[str, list[TaggedClip]]:
    """``size`` clips like those of the test sets: new scenes of training recordings, and of both held-out splits."""
    splits = {"known": "train", "validation": "validation", "unseen": "test"}
    return {
        title: list(islice(tagged_clips(library, split, row_seed(seed, f"tagging/{title}")), size))
        for title, split in splits.items()
    }


@dataclass(frozen=True)
class TaskSizes:
    """Numbers of sound classes, loudness levels and background levels, and the clips' sample rate."""

    classes: int
    loudness: int
    backgrounds: int
    sample_rate: int


def task_sizes(library: SoundLibrary) -> TaskSizes:
    """Sizes of the tagging task over a library."""
    return TaskSizes(len(library.names), len(LOUDNESS), len(BACKGROUNDS), SAMPLE_RATE)
