"""Text samples for training the miniature language model: conversations with their responses.

No audio is involved. A description is a caption, or a log with one word per moment (like the output of a sensor), so
that the model learns to read sentences and long, repetitive, noisy inputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from examples.miniature.world import prompt_tasks
from examples.miniature.world.questions import CHOICE_KINDS, OPEN_KINDS, Question, make_choice_question, make_question
from examples.miniature.world.reading import Message, TextSample, respond
from examples.miniature.world.scene import Event, Scene, describe, draw_scene
from src.corpus.targets.rephrase_text import prepare
from src.prompts.messages import ResponseTexts, rephrase_messages, self_generation_messages
from src.prompts.multiple_choice import layout_question
from src.prompts.texts import Prompts

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("day", "night"), ("black", "white"),
    ("open", "closed"), ("old", "new"), ("fast", "slow"), ("high", "low"), ("wet", "dry"), ("hard", "easy"),
    ("full", "empty"), ("near", "far"), ("early", "late"), ("rich", "poor"), ("sweet", "sour"), ("light", "dark"),
    ("thick", "thin"), ("clean", "dirty"),
)  # fmt: skip
"""Word pairs of the skill that is unrelated to audio."""

LISTENER_PREFIX = "heard: "
LISTENER_SHARE = 0.12
"""Share of descriptions with this prefix, which are answered in a listener's voice. A large model has both
voices; so has this one, and it uses the listener's only where the input asks for it."""

LOG_SHARE = 0.6
"""Share of logs among descriptions in free form."""

HARD_KINDS = ("present", "before", "louder")
"""Open questions that need a look-up of a given word in the text: drawn three times as often."""


def render_log(scene: Scene, rng: random.Random) -> str:
    """The scene as a log: one word per moment, repeated while a sound lasts, with filler words between sounds."""
    filler = {"none": (".",), "faint": ("faint", "."), "strong": ("strong",)}[scene.background]
    words = _filler(filler, rng)
    for event in scene.events:
        run = _run(event, rng)
        slips = rng.random() < 0.3
        words += [rng.choice(filler) if slips and place and rng.random() < 0.15 else w for place, w in enumerate(run)]
        words += _filler(filler, rng)
    return " ".join(words)


def _run(event: Event, rng: random.Random) -> list[str]:
    """One event of a log: its name and loudness alternating, in blocks, or in random order."""
    head = event.name.split()[0] if rng.random() < 0.5 else event.name
    style, length = rng.choice((0, 1, 1, 1, 2, 3)), rng.choice((1, 2, 3, 5, 8, 12, 18))
    if style == 0:
        return [head, event.loudness, *[head] * length]
    if style == 1:
        return [head, event.loudness] * (1 + length // 2)
    if style == 2:
        return [head, *[event.loudness] * rng.randint(1, 4), *[head] * (length // 2)]
    return [head, *(rng.choice((event.loudness, *event.name.split())) for _ in range(length)), event.loudness]


def _filler(words: tuple[str, ...], rng: random.Random) -> list[str]:
    return [rng.choice(words) for _ in range(rng.choice((0, 1, 2, 4, 8, 14)))]


@dataclass(frozen=True)
class Rendering:
    """A description in words; the embeddings of a ``log`` may be blurred in training."""

    text: str
    log: bool = False


def render(scene: Scene, rng: random.Random, log_share: float = LOG_SHARE) -> Rendering:
    """A random form of the scene in words: a log, or a caption with or without its frame."""
    if rng.random() < log_share:
        return Rendering(render_log(scene, rng), log=True)
    if rng.random() < 0.75:
        return Rendering(describe(scene))
    return Rendering(f"{scene.sequence} (background: {scene.background})")


class SampleMaker:
    """Draws samples of every task in fixed shares from one seeded generator.

    ``log_share`` is the share of logs among descriptions that are not in the corpora's layout.
    """

    def __init__(self, prompts: Prompts, seed: int, log_share: float = LOG_SHARE) -> None:
        self._prompts = prompts
        self._log_share = log_share
        self._rng = random.Random(seed)
        self._tasks: dict[str, tuple[float, Callable[[], TextSample]]] = {
            "open": (0.32, self.open_question),
            "choice": (0.32, self.choice_question),
            "rephrase": (0.17, self.rephrase),
            "guess": (0.03, self.guess),
            "opposite": (0.04, self.opposite),
            "write prompts": (0.04, self.write_prompts),
            "check prompts": (0.05, self.check_prompts),
            "check response": (0.03, self.check_response),
        }

    def __iter__(self) -> Iterator[TextSample]:
        names = list(self._tasks)
        weights = [self._tasks[name][0] for name in names]
        while True:
            yield self._tasks[self._rng.choices(names, weights)[0]][1]()

    def open_question(self, kind: str | None = None, official: bool = False) -> TextSample:
        """An open question about a description; ``official`` uses only the corpora's format and layout."""
        kind = kind or self._rng.choice((*OPEN_KINDS, *HARD_KINDS, *HARD_KINDS))
        scene, question = self._draw(make_question, kind)
        return self._about(scene, question, question.text, f"open/{question.kind}", official)

    def choice_question(self, kind: str | None = None, official: bool = False) -> TextSample:
        """A multiple-choice question about a description."""
        scene, question = self._draw(make_choice_question, kind or self._rng.choice((*CHOICE_KINDS, "louder")))
        assert question.choices is not None
        text = layout_question(question.text, question.choices)
        return self._about(scene, question, text, f"choice/{question.kind}", official)

    def log_question(self, kind: str) -> TextSample:
        """An open question about a log, without a system turn."""
        scene, question = self._draw(make_question, kind)
        log = render_log(scene, self._rng)
        message = {"role": "user", "content": f"{log}\n{question.text}"}
        return TextSample(f"log/{kind}", (message,), respond(scene, question, self._rng).reader, (log,))

    def guess(self) -> TextSample:
        """A question without any description."""
        make = make_choice_question if self._rng.random() < 0.7 else make_question
        _, question = self._draw(make, self._rng.choice(CHOICE_KINDS))
        text = layout_question(question.text, question.choices) if question.choices else question.text
        response = respond(None, question, self._rng).reader
        return TextSample("guess", (*self._system(), {"role": "user", "content": text}), response)

    def rephrase(self) -> TextSample:
        """Rewriting a reader's response in a listener's voice."""
        make = make_choice_question if self._rng.random() < 0.3 else make_question
        scene, question = self._draw(make, None)
        voiced = respond(scene, question, self._rng)
        before, after = (prepare(text, self._prompts.reasoning_tag).text for text in (voiced.reader, voiced.listener))
        messages = rephrase_messages(self._prompts, ResponseTexts(voiced.reader, before))
        response = f"i change words of reading into words of hearing.\n</think>\n\n<answer>{after}</answer>"
        return TextSample("rephrase", tuple(messages), response)

    def opposite(self) -> TextSample:
        """A skill that is unrelated to audio: opposites."""
        word, other = self._rng.choice(OPPOSITES)[:: self._rng.choice((1, -1))]
        content = self._rng.choice((f"what is the opposite of {word}?", f"give the opposite of {word}."))
        response = f"{word} and {other} are opposites.\n</think>\n\n{other}"
        return TextSample("opposite", (*self._system(0.2), {"role": "user", "content": content}), response)

    def write_prompts(self) -> TextSample:
        """Writing prompts about a described scene."""
        return prompt_tasks.write_prompts(self._prompts, self._rng)

    def check_prompts(self) -> TextSample:
        """Checking prompts about a described scene."""
        return prompt_tasks.check_prompts(self._prompts, self._rng)

    def check_response(self) -> TextSample:
        """Checking a response for words of a reader."""
        return prompt_tasks.check_response(self._prompts, self._rng)

    def _draw(self, make: Callable[..., Question | None], kind: str | None) -> tuple[Scene, Question]:
        while True:
            scene = draw_scene(self._rng)
            question = make(scene, self._rng, kind)
            if question is not None:
                return scene, question

    def _system(self, share: float = 0.6) -> tuple[Message, ...]:
        texts = (self._prompts.generation_system, self._prompts.mcqa_system, self._prompts.self_generation_system)
        if self._rng.random() >= share:
            return ()
        return ({"role": "system", "content": self._rng.choice(texts)},)

    def _about(self, scene: Scene, question: Question, text: str, task: str, official: bool) -> TextSample:
        voiced = respond(scene, question, self._rng)
        if official or self._rng.random() < 0.25:
            messages = tuple(self_generation_messages(self._prompts, describe(scene), text))
            return TextSample(task, messages, voiced.reader)
        as_listener = self._rng.random() < LISTENER_SHARE
        content, logs = self._content(scene, text, LISTENER_PREFIX if as_listener else "")
        messages = (*self._system(), {"role": "user", "content": content})
        return TextSample(task, messages, voiced.listener if as_listener else voiced.reader, logs)

    def _content(self, scene: Scene, text: str, opening: str) -> tuple[str, tuple[str, ...]]:
        """Description and question in one of the layouts that also occur with audio, and the logs in them."""
        style = self._rng.random()
        once = render(scene, self._rng, self._log_share)
        if style < 0.8:
            tags = (self._prompts.description_open, self._prompts.description_close)
            before, after = ("", "\n") if style < 0.5 else (tags[0], tags[1] + ("" if style < 0.65 else "\n\n"))
            return f"{opening}{before}{once.text}{after}{text}", (once.text,) if once.log else ()
        renderings = (once, render(scene, self._rng, self._log_share))
        parts = [self._prompts.ensemble_intro.format(n=len(renderings))]
        for number, rendering in enumerate(renderings, 1):
            heading = self._prompts.ensemble_heading.format(i=number, n=len(renderings))
            parts.append(f"{heading}\n{opening}{rendering.text}\n")
        content = "".join(part if part.endswith("\n") else part + "\n" for part in parts) + text
        return content, tuple(rendering.text for rendering in renderings if rendering.log)
