"""Message layouts of the corpus stages: which text stands where, for every prompt set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from src.prompts.templates import fill

Messages = list[dict[str, str]]
"""Chat messages as every chat template takes them: ``role`` and ``content``."""


class DescriptionMarks(Protocol):
    """The marks around a description."""

    @property
    def description_open(self) -> str:
        """Mark in front of a description, e.g. ``<start_audio>``."""

    @property
    def description_close(self) -> str:
        """Mark behind a description, e.g. ``<end_audio>``."""


class SelfGenerationTexts(DescriptionMarks, Protocol):
    """What :func:`self_generation_messages` reads of a prompt set."""

    @property
    def self_generation_system(self) -> str:
        """The task: answer the prompt about the audio between the two marks."""

    @property
    def self_generation_user(self) -> str:
        """Template of the user turn."""


class EnsembleTexts(DescriptionMarks, Protocol):
    """Keys of a prompt set for several checkpoints."""

    @property
    def ensemble_intro(self) -> str:
        """Template of the introduction, with ``{n}``."""

    @property
    def ensemble_heading(self) -> str:
        """Template of the heading before each hearing, with ``{i}`` and ``{n}``."""

    @property
    def ensemble_tags(self) -> str:
        """``each`` or ``around``: where the marks stand."""


class PromptWriterTexts(DescriptionMarks, Protocol):
    """What :func:`writer_messages` and :func:`prompt_checker_messages` read of a prompt set."""

    @property
    def writer_system(self) -> str:
        """The writer's task; ``{examples}`` stands for descriptions of the corpus."""

    @property
    def prompt_checker_system(self) -> str:
        """The task of judging a numbered list of prompts."""


class RewriterTexts(Protocol):
    """Keys of a prompt set that :func:`rephrase_messages` and :func:`checker_messages` read."""

    @property
    def rephrase_system(self) -> str:
        """The rewriter's task, rules, output format and worked examples."""

    @property
    def rephrase_instruction(self) -> str:
        """One line in front of the response."""

    @property
    def response_tag(self) -> str:
        """Name of the tag around the response."""

    @property
    def reasoning_tag(self) -> str:
        """Name of the tag around its reasoning."""

    @property
    def rephrase_user(self) -> str:
        """Template of the rewriter's user turn."""

    @property
    def checker_user(self) -> str:
        """Template of the checker's user turn."""


@dataclass(frozen=True)
class ResponseTexts:
    """A response that is to be rewritten or checked, with what its templates may show.

    ``response`` is as it was generated, ``prepared`` as :func:`src.corpus.stages.rephrase_text.prepare` makes it.
    """

    response: str
    prepared: str
    audio_description: str = ""
    prompt: str = ""


def self_generation_messages(prompts: SelfGenerationTexts, description: str, prompt: str) -> Messages:
    """The LLM answers ``prompt`` about a clip that it is given in words; the usual layout is the marked description,
    an empty line, the prompt."""
    fields = {
        "audio_description": description,
        "prompt": prompt,
        "description_open": prompts.description_open,
        "description_close": prompts.description_close,
    }
    return _messages(prompts.self_generation_system, fill(prompts.self_generation_user, fields))


def writer_messages(prompts: PromptWriterTexts, examples: Sequence[str], description: str, style: str) -> Messages:
    """The LLM writes prompts of a ``style`` for a described clip; ``examples`` are descriptions of its corpus."""
    system = prompts.writer_system.replace("{examples}", "\n".join(f"- {example}" for example in examples))
    return _messages(system, f"{_marked(prompts, description)}\n\n{style}")


def prompt_checker_messages(prompts: PromptWriterTexts, description: str, candidates: Sequence[str]) -> Messages:
    """The LLM judges every prompt of a numbered list; further lines of a prompt are indented."""
    listed = "\n".join(
        f"{number}. {candidate}".replace("\n", "\n   ") for number, candidate in enumerate(candidates, 1)
    )
    return _messages(prompts.prompt_checker_system, f"{_marked(prompts, description)}\n\n{listed}")


def rephrase_messages(prompts: RewriterTexts, row: ResponseTexts) -> Messages:
    """The LLM rewrites a response.

    The usual layout leaves description and prompt out on purpose: the rewriter can change the voice, not the content.
    """
    fields = {**asdict(row), **_tags(prompts), "rephrase_instruction": prompts.rephrase_instruction}
    return _messages(prompts.rephrase_system, fill(prompts.rephrase_user, fields))


def checker_messages(prompts: RewriterTexts, checker_system: str, row: ResponseTexts) -> Messages:
    """Another LLM judges whether a response shows that its author read a text."""
    return _messages(checker_system, fill(prompts.checker_user, {**asdict(row), **_tags(prompts)}))


def ensemble_intro(prompts: EnsembleTexts, count: int) -> str:
    """Introduction for an ensemble of ``count`` checkpoints, before its first audio, with a line end."""
    return _line(fill(prompts.ensemble_intro, {"n": count}))


def ensemble_heading(prompts: EnsembleTexts, number: int, count: int) -> str:
    """Heading of hearing ``number`` (from 1) of ``count``, with a line end."""
    return _line(fill(prompts.ensemble_heading, {"i": number, "n": count}))


def ensemble_marks(prompts: EnsembleTexts, explicit: Sequence[bool]) -> list[tuple[str, str]]:
    """Texts around the audio of each hearing, and last those around all of them.

    Only checkpoints that were trained with explicit audio tokens have any; around all of them it is the first that
    counts, as in the published system.
    """
    marks, around = (prompts.description_open, prompts.description_close), prompts.ensemble_tags == "around"
    each = [marks if own and not around else ("", "") for own in explicit]
    return [*each, marks if explicit[0] and around else ("", "")]


def _line(text: str) -> str:
    return text + ("" if text.endswith("\n") else "\n")


def _tags(prompts: RewriterTexts) -> dict[str, str]:
    return {"response_tag": prompts.response_tag, "reasoning_tag": prompts.reasoning_tag}


def _marked(prompts: DescriptionMarks, description: str) -> str:
    return f"{prompts.description_open}{description}{prompts.description_close}"


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
