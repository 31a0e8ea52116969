"""One text sample of the miniature language model, and the scenes that samples are about."""

from __future__ import annotations

import random
from dataclasses import dataclass

from src.corpus.mini.scene import Event, Scene
from src.corpus.mini.vocabulary import BACKGROUNDS, LOUDNESS, SOUND_NAMES

Message = dict[str, str]


@dataclass(frozen=True)
class TextSample:
    """A conversation up to the model's turn, what it should write (thoughts first), and what the sample tests.

    ``logs`` are the parts of the messages that are logs, in order. ``reference`` is the text that must follow
    ``</think>``. ``scene`` is given where many texts are right, so that a text can be judged by it.
    """

    task: str
    messages: tuple[Message, ...]
    response: str
    logs: tuple[str, ...] = ()
    scene: Scene | None = None

    @property
    def reference(self) -> str:
        """The part of the response behind the thoughts."""
        return self.response.split("</think>")[-1].strip()


def draw_scene(rng: random.Random, names: tuple[str, ...] = SOUND_NAMES) -> Scene:
    """A scene of one to three different sounds, all choices uniform."""
    chosen = rng.sample(names, rng.randint(1, 3))
    events = tuple(Event(name, rng.choice(LOUDNESS), onset=place) for place, name in enumerate(chosen))
    return Scene(events, rng.choice(BACKGROUNDS), round(rng.uniform(1.0, 4.0), 2))
