"""Questions about a scene with one correct answer, open or multiple choice.

Options give nothing away: distractors are drawn from the same words as the answer and the order is uniform, so that a
guess, or an answer about another clip, is correct by chance only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.miniature.world.scene import Scene
from examples.miniature.world.vocabulary import SOUND_NAMES

CHOICES = 4
COUNTS = ("one", "two", "three")


@dataclass(frozen=True)
class Question:
    """A question of a ``kind`` about a scene.

    ``answer`` is a complete sentence, or with ``choices`` the text of the correct option. ``subject`` are the sounds
    that the question names.
    """

    kind: str
    text: str
    answer: str
    subject: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None


def _first(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    return Question("first", "which sound comes first?", f"the first sound is a {scene.names[0]}.")


def _last(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    return Question("last", "which sound comes last?", f"the last sound is a {scene.names[-1]}.")


def _after(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    if len(scene.events) < 2:
        return None
    place = rng.randrange(len(scene.events) - 1)
    before, after = scene.names[place], scene.names[place + 1]
    return Question(
        "after", f"what comes right after the {before}?", f"a {after} comes right after the {before}.", (before,)
    )


def _count(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    count = COUNTS[len(scene.events) - 1]
    answer = "there is one sound." if count == "one" else f"there are {count} sounds."
    return Question("count", "how many sounds are there?", answer)


def _present(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    if rng.random() < 0.5:
        name = rng.choice(scene.names)
        answer = f"yes, there is a {name}."
    else:
        name = rng.choice([other for other in names if other not in scene.names])
        answer = f"no, there is no {name}."
    return Question("present", f"is there a {name}?", answer, (name,))


def _before(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    if len(scene.events) < 2:
        return None
    one, other = rng.sample(range(len(scene.events)), 2)
    a, b = scene.names[one], scene.names[other]
    answer = f"yes, the {a} comes before the {b}." if one < other else f"no, the {a} comes after the {b}."
    return Question("before", f"does the {a} come before the {b}?", answer, (a, b))


def _louder(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    loud = [event.name for event in scene.events if event.loudness == "loud"]
    soft = [event.name for event in scene.events if event.loudness == "soft"]
    if not loud or not soft:
        return None
    pair = [rng.choice(loud), rng.choice(soft)]
    answer = f"the {pair[0]} is louder."
    rng.shuffle(pair)
    return Question("louder", f"which is louder, the {pair[0]} or the {pair[1]}?", answer, tuple(pair))


def _describe(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    background = "no noise" if scene.background == "none" else f"{scene.background} noise"
    return Question("describe", "describe the audio.", f"the sounds are {scene.sequence}, with {background} behind.")


def _sequence(scene: Scene, rng: random.Random, names: tuple[str, ...]) -> Question | None:
    return Question("sequence", "write the sequence of sounds.", ", ".join(scene.names) + ".")


_OPEN: dict[str, Callable[[Scene, random.Random, tuple[str, ...]], Question | None]] = {
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
OPEN_KINDS = tuple(_OPEN)
CHOICE_KINDS = ("first", "last", "after", "count", "present", "louder")


def make_question(
    scene: Scene, rng: random.Random, kind: str | None = None, names: tuple[str, ...] = SOUND_NAMES
) -> Question | None:
    """An open question about ``scene``; ``None`` if the scene does not allow this ``kind``.

    Without ``kind`` one is drawn among those that the scene allows. ``names`` are the sounds that may be asked for
    although they are absent.
    """
    if kind is not None:
        return _OPEN[kind](scene, rng, names)
    allowed = [question for make in _OPEN.values() if (question := make(scene, rng, names)) is not None]
    return rng.choice(allowed)


def make_choice_question(
    scene: Scene, rng: random.Random, kind: str | None = None, names: tuple[str, ...] = SOUND_NAMES
) -> Question | None:
    """A multiple-choice question about ``scene``; ``None`` if the scene does not allow this ``kind``."""
    if kind is None:
        allowed = [
            made for each in CHOICE_KINDS if (made := make_choice_question(scene, rng, each, names)) is not None
        ]
        return rng.choice(allowed)
    if kind == "present":
        answer = rng.choice(scene.names)
        absent = [name for name in names if name not in scene.names]
        return _with_choices(
            Question(kind, "which of these sounds can be heard?", answer), rng.sample(absent, CHOICES - 1), rng
        )
    question = _OPEN[kind](scene, rng, names)
    if question is None:
        return None
    if kind == "count":
        count = COUNTS[len(scene.events) - 1]
        return _with_choices(_answered(question, count), [other for other in COUNTS if other != count], rng)
    if kind == "louder":
        answer = question.answer.removeprefix("the ").removesuffix(" is louder.")
        return _with_choices(_answered(question, answer), [n for n in question.subject if n != answer], rng)
    answer = {"first": scene.names[0], "last": scene.names[-1]}.get(kind) or _following(scene, question.subject[0])
    hard = [name for name in scene.names if name not in (answer, *question.subject)]
    easy = [name for name in names if name not in scene.names]
    distractors = hard + rng.sample(easy, CHOICES - 1 - len(hard))
    return _with_choices(_answered(question, answer), distractors, rng)


def _following(scene: Scene, name: str) -> str:
    return scene.names[scene.names.index(name) + 1]


def _answered(question: Question, answer: str) -> Question:
    return Question(question.kind, question.text, answer, question.subject)


def _with_choices(question: Question, distractors: list[str], rng: random.Random) -> Question:
    choices = [question.answer, *distractors]
    rng.shuffle(choices)
    return Question(question.kind, question.text, question.answer, question.subject, tuple(choices))
