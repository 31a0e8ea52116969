"""Message layouts of the corpus stages: which text stands where, for every prompt set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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


class PromptWriterTexts(DescriptionMarks, Protocol):
    """What :func:`writer_messages` and :func:`prompt_checker_messages` read of a prompt set."""

    @property
    def writer_system(self) -> str:
        """The writer's task; ``{examples}`` stands for descriptions of the corpus."""

    @property
    def prompt_checker_system(self) -> str:
        """The task of judging a numbered list of prompts."""


class RephraseTexts(Protocol):
    """What :func:`rephrase_messages` reads of a prompt set."""

    @property
    def rephrase_system(self) -> str:
        """The rewriter's task, rules, output format and worked examples."""

    @property
    def rephrase_instruction(self) -> str:
        """One line in front of the response."""

    @property
    def response_tag(self) -> str:
        """Name of the tag around the response."""


def self_generation_messages(prompts: SelfGenerationTexts, description: str, prompt: str) -> Messages:
    """The LLM answers ``prompt`` about a clip that it is given in words: marked description, empty line, prompt."""
    return _messages(prompts.self_generation_system, f"{_marked(prompts, description)}\n\n{prompt}")


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


def rephrase_messages(prompts: RephraseTexts, prepared: str) -> Messages:
    """The LLM rewrites a response, prepared by :func:`src.corpus.stages.rephrase_text.prepare`, that stands in a tag.

    Description and prompt are left out on purpose: the rewriter can change the voice, not the content.
    """
    tag = prompts.response_tag
    return _messages(prompts.rephrase_system, f"{prompts.rephrase_instruction}\n<{tag}>\n{prepared}\n</{tag}>")


def checker_messages(checker_system: str, response_tag: str, prepared: str) -> Messages:
    """Another LLM judges whether a response, prepared like for rewriting, betrays that its author read a text."""
    return _messages(checker_system, f"<{response_tag}>\n{prepared}\n</{response_tag}>")


def _marked(prompts: DescriptionMarks, description: str) -> str:
    return f"{prompts.description_open}{description}{prompts.description_close}"


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
