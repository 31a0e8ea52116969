"""The shipped sounds by class and split, recorded and synthesised."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from examples.miniature.world.flac import read_flac
from examples.miniature.world.synthesis import SPLITS, SYNTHETIC_NAMES, Samples, main_frequency, synthesize
from examples.miniature.world.vocabulary import SOUND_NAMES
from src.common.errors import UserError
from src.common.paths import ASSETS

SOUNDS_DIR = ASSETS / "mini" / "sounds"


@dataclass(frozen=True)
class Recording:
    """One recording: its id, class and split, and its excerpts, each mono at 24 kHz."""

    id: str
    name: str
    split: str
    excerpts: tuple[Samples, ...]


class SoundLibrary:
    """All sounds of the miniature world.

    Args:
        recordings: recorded sounds; the synthesised families are added to their classes.
    """

    def __init__(self, recordings: tuple[Recording, ...]) -> None:
        self.recordings = recordings
        recorded = {recording.name for recording in recordings}
        self.names = tuple(name for name in SOUND_NAMES if name in recorded or name in SYNTHETIC_NAMES)
        self._by_class: dict[tuple[str, str], list[Recording]] = {}
        for recording in recordings:
            self._by_class.setdefault((recording.name, recording.split), []).append(recording)
        lacking = [(n, s) for n in recorded for s in SPLITS if (n, s) not in self._by_class]
        if lacking:
            name, split = lacking[0]
            raise UserError(f"no recording of {name!r} in split {split!r}; every class needs all splits")

    def draw(self, name: str, split: str, rng: np.random.Generator) -> tuple[str, Samples]:
        """A sound of the class ``name`` in ``split``: the id of its recording or main frequency, and samples (n,).

        Recordings are equally likely, whatever the number of their excerpts.
        """
        if name in SYNTHETIC_NAMES:
            frequency = main_frequency(name, split, rng)
            return f"{name}@{frequency:.1f}Hz", synthesize(name, frequency, rng)
        candidates = self._by_class[name, split]
        recording = candidates[rng.integers(len(candidates))]
        return recording.id, recording.excerpts[rng.integers(len(recording.excerpts))]


@lru_cache(maxsize=2)
def load_sounds(folder: Path = SOUNDS_DIR) -> SoundLibrary:
    """Read ``sounds.json`` and its FLAC files (about a second the first time).

    Raises:
        UserError: if the table or a file is missing or unreadable.
    """
    table = folder / "sounds.json"
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))["sounds"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read {table}: {error}; expected the table written by scripts/mini/make_sounds.py: restore "
            "assets/mini/sounds from the repository, or run that script"
        ) from error
    excerpts: dict[tuple[str, str, str], list[Samples]] = {}
    for row in rows:
        excerpts.setdefault((row["recording"], row["name"], row["split"]), []).append(read_flac(folder / row["file"]))
    return SoundLibrary(tuple(Recording(*key, tuple(each)) for key, each in excerpts.items()))
