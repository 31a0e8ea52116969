"""Scenes as labelled stretches of time: what the miniature encoders are pretrained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from src.common.seeds import row_seed
from src.corpus.mini.mixing import SLIGHT, Clip, Variation, draw_clip
from src.corpus.mini.sounds import SoundLibrary
from src.corpus.mini.synthesis import SAMPLE_RATE, Samples
from src.corpus.mini.vocabulary import BACKGROUNDS, LOUDNESS

STRONG = Variation(pitch=2.5, equalizer=4.0, skip=0.3)
"""Changes to training recordings that make a class wider than its few recordings."""


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


def task_sizes(library: SoundLibrary) -> dict[str, int]:
    """Numbers of classes, loudness levels and background levels, and the sample rate."""
    return {
        "classes": len(library.names),
        "loudness": len(LOUDNESS),
        "backgrounds": len(BACKGROUNDS),
        "sample_rate": SAMPLE_RATE,
    }
