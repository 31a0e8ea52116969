"""Text samples for three corpus stages: writing prompts, checking prompts, checking responses.

A verdict directly follows the look-up that decides it, and the result of a look-up directly follows the name: a model
of this size can copy the token after a word, and little more (see :mod:`examples.miniature.world.reading`).
"""

from __future__ import annotations

import random
import re

from examples.miniature.world.questions import OPEN_KINDS, Question, make_question
from examples.miniature.world.reading import TextSample, found, respond
from examples.miniature.world.scene import Event, Scene, describe, draw_scene
from examples.miniature.world.vocabulary import SOUND_NAMES
from src.corpus.targets.prompt_list import read_prompt_list
from src.corpus.targets.rephrase_text import prepare
from src.prompts.leakage import leaks_text_source
from src.prompts.messages import ResponseTexts, checker_messages, prompt_checker_messages, writer_messages
from src.prompts.texts import Prompts

STYLE_KINDS = (("first", "last", "after", "count", "louder"), ("present", "before"), ("describe", "sequence"))
"""Kinds of question that each of the miniature prompt set's ``writer_styles`` asks for."""
MAX_PROMPTS = 3
NAMING_KINDS = ("after", "before", "louder")
"""Kinds that presuppose the sounds they name."""
READING = (
    "what does the description say about the {x}?", "which sound does the text mention first?",
    "what is listed after the {x}?", "which words are written last?", "how does the description end?",
    "what does the text mention?",
)  # fmt: skip
UNANSWERABLE = (
    "what colour is the {x}?", "who made the {x}?", "how heavy is the {x}?", "what does the {x} cost?",
    "where was the {x} bought?", "what is the name of the player?", "what does the room look like?",
)  # fmt: skip
_NAMES = re.compile(rf"\b(?:{'|'.join(sorted(SOUND_NAMES, key=len, reverse=True))})\b")


def named_sounds(prompt: str) -> list[str]:
    """The sounds that ``prompt`` names, in order."""
    return _NAMES.findall(prompt)


def shape_of(prompt: str) -> str:
    """A prompt with every sound replaced by ``*``."""
    return _NAMES.sub("*", prompt)


def _shapes() -> dict[str, str]:
    scene = Scene((Event("kick", "loud", 0), Event("bell", "soft", 1)))
    made = ((kind, make_question(scene, random.Random(0), kind)) for kind in OPEN_KINDS)
    return {shape_of(question.text): kind for kind, question in made if question is not None}


KIND_OF_SHAPE = _shapes()
"""Question kinds by wording, with every sound replaced by ``*``."""


def suits(prompt: str, scene: Scene) -> bool:
    """Whether ``prompt`` is one of the miniature world's questions, and ``scene`` allows it."""
    kind, names = KIND_OF_SHAPE.get(shape_of(prompt)), named_sounds(prompt)
    if kind is None or (
        kind in NAMING_KINDS and (len(set(names)) < len(names) or not set(names) <= set(scene.names))
    ):
        return False
    if kind == "after":
        return names[0] != scene.names[-1]
    return kind != "louder" or len({found(scene, name) for name in names}) == 2


def wrote_prompts(written: str, scene: Scene) -> bool:
    """Whether the writer's output is a list of at least two prompts, each of which suits ``scene``."""
    prompts, status = read_prompt_list(written)
    return status == "ok" and len(prompts) >= 2 and all(suits(prompt, scene) for prompt in prompts)


def write_prompts(prompts: Prompts, rng: random.Random) -> TextSample:
    """A list of two or three prompts of one style about a described scene."""
    scene = draw_scene(rng)
    style, kinds = rng.choice(list(zip(prompts.writer_styles, STYLE_KINDS, strict=True)))
    chosen: list[str] = []
    allowed = [kind for kind in kinds if make_question(scene, rng, kind) is not None]
    wanted = min(MAX_PROMPTS, len(allowed)) if "present" not in kinds else MAX_PROMPTS
    while len(chosen) < wanted:
        question = make_question(scene, rng, rng.choice(allowed))
        if question is not None and question.text not in chosen:
            chosen.append(question.text)
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(chosen, 1))
    messages = writer_messages(prompts, (), describe(scene), style)
    response = f"the description says: {scene.sequence}.\n</think>\n\n<answer>{listed}</answer>"
    return TextSample("write prompts", tuple(messages), response, scene=scene)


def check_prompts(prompts: Prompts, rng: random.Random) -> TextSample:
    """Sample of the prompt checker: two or three prompts about a described scene, each good or bad."""
    scene = draw_scene(rng)
    verdicts: dict[str, str] = {}  # without duplicates, as the prompt stage removes them
    wanted = rng.randint(2, MAX_PROMPTS)
    while len(verdicts) < wanted:
        text, verdict = _good(scene, rng) if rng.random() < 0.5 else _bad(scene, rng)
        verdicts[text] = verdict
    messages = prompt_checker_messages(prompts, describe(scene), list(verdicts))
    listed = "\n".join(f"{number}. {text} {verdict}" for number, (text, verdict) in enumerate(verdicts.items(), 1))
    response = f"the description says: {scene.sequence}.\n</think>\n\n<answer>{listed}</answer>"
    return TextSample("check prompts", tuple(messages), response)


def _good(scene: Scene, rng: random.Random) -> tuple[str, str]:
    naming = [question for kind in NAMING_KINDS if (question := make_question(scene, rng, kind)) is not None]
    question = rng.choice(naming) if naming and rng.random() < 0.5 else make_question(scene, rng)
    assert question is not None, "every scene allows some question"
    return question.text, f"{_looking(question, question.subject, scene)}good"


def _bad(scene: Scene, rng: random.Random) -> tuple[str, str]:
    chance = rng.random()
    if chance < 0.4:
        return rng.choice(READING if chance < 0.2 else UNANSWERABLE).format(x=rng.choice(scene.names)), "bad"
    question = _about_another(scene, rng)
    return question.text, f"{_looking(question, question.subject, scene)}bad"


def _about_another(scene: Scene, rng: random.Random) -> Question:
    """A question that presupposes at least one sound that is not in the scene."""
    while True:
        names = [*scene.names, *rng.sample([name for name in SOUND_NAMES if name not in scene.names], 2)]
        question = make_question(draw_scene(rng, tuple(names)), rng, rng.choice(NAMING_KINDS))
        if question is not None and not set(question.subject) <= set(scene.names):
            return question


def _looking(question: Question, names: tuple[str, ...], scene: Scene) -> str:
    """Result of looking up the sounds that a question presupposes."""
    if question.kind not in NAMING_KINDS:
        return ""
    return f"looking: {', '.join(f'{name} {found(scene, name)}' for name in names)}. "


def check_response(prompts: Prompts, rng: random.Random) -> TextSample:
    """Sample of the response checker: a listener's response, a reader's, or a mixture of both."""
    scene = draw_scene(rng)
    question = make_question(scene, rng)
    assert question is not None, "every scene allows some question"
    voiced = respond(scene if rng.random() < 0.9 else None, question, rng)
    text = voiced.listener
    if rng.random() < 0.5:
        text = voiced.reader if rng.random() < 0.5 else _slip(voiced.reader, voiced.listener, rng)
    leak = next((word for word in re.findall(r"\w+", text) if leaks_text_source(word, prompts)), None)
    texts = ResponseTexts(text, prepare(text, prompts.reasoning_tag).text)
    messages = checker_messages(prompts, prompts.checker_system, texts)
    verdict = "no" if leak is None else "yes"
    response = f"i look for words of reading. found: {leak or 'none'}.\n</think>\n\n{verdict}"
    return TextSample("check response", tuple(messages), response)


def _slip(reader: str, listener: str, rng: random.Random) -> str:
    """The listener's response with one sentence in the reader's words."""
    parts, others = listener.split(". "), reader.split(". ")
    assert len(parts) == len(others), "both voices have the same sentences"
    place = rng.choice([place for place, pair in enumerate(zip(parts, others, strict=True)) if pair[0] != pair[1]])
    return ". ".join([*parts[:place], others[place], *parts[place + 1 :]])
