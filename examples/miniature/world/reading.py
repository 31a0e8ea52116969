"""Responses that the miniature language model learns: reasoning and answer, in two voices.

A reader's voice ("the description says ...") and a listener's voice ("i hear ...") fill the same sentence patterns,
so that a rephrased response keeps its structure word for word. Samples contain only text.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from examples.miniature.world.questions import COUNTS, Question
from examples.miniature.world.scene import Scene

Message = dict[str, str]
READER, LISTENER = 0, 1

_VOICES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "opening": (
        ("the description says: {s}.", "i hear: {s}."),
        ("the description lists: {s}.", "i can hear: {s}."),
        ("the text mentions: {s}.", "i notice: {s}."),
    ),
    "first": (("the first sound mentioned is the {a}.", "the first sound i hear is the {a}."),),
    "last": (("the last sound mentioned is the {a}.", "the last sound i hear is the {a}."),),
    "after": (("after the {x} it mentions the {a}.", "after the {x} i hear the {a}."),),
    "order": (("the listed order is {walk}.", "the order i hear is {walk}."),),
    "absent": (("the description does not mention a {a}.", "i do not hear a {a}."),),
    "present": (("the description mentions a {a}.", "i do hear a {a}."),),
    "background": (("the listed background is {g}.", "the background sounds {g}."),),
    "nothing": (
        ("there is no description to go by, so i guess.", "there is nothing i hear, so i guess."),
        ("no description is given, so i guess.", "no sound is heard, so i guess."),
    ),
}


@dataclass(frozen=True)
class TextSample:
    """A conversation, the response that the model learns, and the task that the sample belongs to.

    ``logs`` are the parts of the messages that are logs, in order. ``scene`` is given for tasks with many right
    responses, to score a response against it.
    """

    task: str
    messages: tuple[Message, ...]
    response: str
    logs: tuple[str, ...] = ()
    scene: Scene | None = None

    @property
    def reference(self) -> str:
        """The answer: the response after ``</think>``."""
        return self.response.split("</think>")[-1].strip()


@dataclass(frozen=True)
class Voiced:
    """One response in both voices: ``reader`` and ``listener``, each ``thoughts</think>answer``."""

    reader: str
    listener: str


class _Thoughts:
    """Collects the sentences of a reasoning in both voices."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lines: tuple[list[str], list[str]] = ([], [])

    def say(self, key: str, **words: str) -> _Thoughts:
        pair = self._rng.choice(_VOICES[key])
        for voice in (READER, LISTENER):
            self._lines[voice].append(pair[voice].format(**words))
        return self

    def same(self, sentence: str) -> _Thoughts:
        for lines in self._lines:
            lines.append(sentence)
        return self

    def finish(self, answer: str) -> Voiced:
        reader, listener = (f"{' '.join(lines)}\n</think>\n\n{answer}" for lines in self._lines)
        return Voiced(reader, listener)


def respond(scene: Scene | None, question: Question, rng: random.Random) -> Voiced:
    """The correct response to ``question`` about ``scene``; without a scene, a guess that says so."""
    thoughts = _Thoughts(rng)
    if scene is None:
        return _guess(thoughts, question, rng)
    thoughts.say("opening", s=scene.sequence)
    _REASONING[question.kind](thoughts, scene, question)
    if question.choices is None:
        return thoughts.finish(question.answer)
    number = question.choices.index(question.answer)
    thoughts.same(f"the options are {_walk(scene, question)}. so {question.answer} {number}.")
    return thoughts.finish(f"<answer>{number}</answer>")


def _walk(scene: Scene, question: Question) -> str:
    """All options with their number before and after: a small model then finds a number by copying the next token."""
    assert question.choices is not None
    walk = []
    for number, choice in enumerate(question.choices):
        # only "present" has an answer that is not known before the options are read
        look = f" {found(scene, choice)}" if question.kind == "present" else ""
        walk.append(f"{number} {choice}{look} {number}")
    return ", ".join(walk)


def found(scene: Scene, name: str) -> str:
    """The loudness of ``name`` in the scene, or ``absent``."""
    return next((event.loudness for event in scene.events if event.name == name), "absent")


def _guess(thoughts: _Thoughts, question: Question, rng: random.Random) -> Voiced:
    thoughts.say("nothing")
    if question.choices is None:
        return thoughts.finish("i can not tell.")
    return thoughts.finish(f"<answer>{rng.randrange(len(question.choices))}</answer>")


def _first(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    thoughts.say("first", a=scene.names[0])


def _last(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    thoughts.say("last", a=scene.names[-1])


def _after(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    before = question.subject[0]
    thoughts.say("after", x=before, a=scene.names[scene.names.index(before) + 1])


def _numbered(scene: Scene) -> str:
    return ", ".join(f"{name} {number}" for number, name in zip(COUNTS, scene.names, strict=False))


def _count(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    thoughts.say("order", walk=_numbered(scene)).same(f"that makes {COUNTS[len(scene.events) - 1]}.")


def _present(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    if question.choices is not None:
        return
    target = question.subject[0]
    thoughts.same(f"looking: {target} {found(scene, target)}.")
    thoughts.say("present" if target in scene.names else "absent", a=target)


def _before(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    one, other = question.subject
    places = [COUNTS[scene.names.index(name)] for name in (one, other)]
    thoughts.say("order", walk=_numbered(scene)).same(f"so {one} {places[0]}, {other} {places[1]}.")


def _louder(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    looks = (f"{name} {found(scene, name)}" for name in question.subject)
    thoughts.same(f"looking: {', '.join(looks)}.")


def _describe(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    thoughts.say("background", g=scene.background)


def _sequence(thoughts: _Thoughts, scene: Scene, question: Question) -> None:
    thoughts.say("order", walk=_numbered(scene))


_REASONING = {
    "first": _first,
    "last": _last,
    "after": _after,
    "count": _count,
    "present": _present,
    "before": _before,
    "louder": _louder,
    "describe": _describe,
    "sequence": _sequence,
}
