"""A scene of the miniature world: one to three events over a background, and its description in words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from examples.miniature.world.vocabulary import BACKGROUNDS, LOUDNESS, SOUND_NAMES
from src.corpus.description import describe_audio


@dataclass(frozen=True)
class Event:
    """One sound of a scene: its name, ``loud`` or ``soft``, onset and duration in seconds."""

    name: str
    loudness: str
    onset: float = 0.0
    duration: float = 0.5

    def __post_init__(self) -> None:
        if self.loudness not in LOUDNESS:
            raise ValueError(f"loudness {self.loudness!r}; known: {', '.join(LOUDNESS)}")

    @property
    def phrase(self) -> str:
        """The event with its loudness, e.g. ``kick loud``.

        The name comes first: after writing it, a small model copies the loudness from the next token of its source.
        """
        return f"{self.name} {self.loudness}"


@dataclass(frozen=True)
class Scene:
    """Events in order of onset (their names all differ), background level, duration in seconds."""

    events: tuple[Event, ...]
    background: str = "none"
    duration: float = 3.0

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background {self.background!r}; known: {', '.join(BACKGROUNDS)}")
        if len(set(self.names)) != len(self.events):
            raise ValueError(f"a scene's sounds must differ, got {', '.join(self.names)}")
        if list(self.events) != sorted(self.events, key=lambda event: event.onset):
            raise ValueError("a scene's events must be in order of onset")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the events in order."""
        return tuple(event.name for event in self.events)

    @property
    def sequence(self) -> str:
        """The events in words, e.g. ``kick loud, then tom soft``."""
        return join_phrases([event.phrase for event in self.events])

    def to_json(self) -> str:
        """The scene as one line of JSON, the form kept in the raw data set's ``scene`` column."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """Inverse of :meth:`to_json`."""
        data = json.loads(text)
        return cls(tuple(Event(**event) for event in data["events"]), data["background"], data["duration"])


def draw_scene(rng: random.Random, names: tuple[str, ...] = SOUND_NAMES) -> Scene:
    """A scene of one to three different sounds, all choices uniform."""
    chosen = rng.sample(names, rng.randint(1, 3))
    events = tuple(Event(name, rng.choice(LOUDNESS), onset=place) for place, name in enumerate(chosen))
    return Scene(events, rng.choice(BACKGROUNDS), round(rng.uniform(1.0, 4.0), 2))


def join_phrases(phrases: Sequence[str]) -> str:
    """``a, then b, then c``."""
    return ", then ".join(phrases)


def describe(scene: Scene) -> str:
    """The scene's description in the corpora's format, caption style.

    ``[00:00-00:03] |kick loud, then tom soft| (duration: 3s, events: 2, background: faint)``
    """
    return describe_audio(
        scene.duration,
        scene.sequence,
        text_type="caption",
        metadata={"events": len(scene.events), "background": scene.background},
    )
