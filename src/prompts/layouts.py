"""Message layouts of the corpus stages: which text stands where, for every prompt set."""

from __future__ import annotations

from typing import Protocol

Messages = list[dict[str, str]]
"""Chat messages as every chat template takes them: ``role`` and ``content``."""


class SelfGenerationTexts(Protocol):
    """What :func:`self_generation_messages` reads of a prompt set."""

    @property
    def self_generation_system(self) -> str:
        """The task: answer the prompt about the audio between the two marks."""

    @property
    def description_open(self) -> str:
        """Mark in front of a description, e.g. ``<start_audio>``."""

    @property
    def description_close(self) -> str:
        """Mark behind a description, e.g. ``<end_audio>``."""


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
    audio = f"{prompts.description_open}{description}{prompts.description_close}"
    return _messages(prompts.self_generation_system, f"{audio}\n\n{prompt}")


def rephrase_messages(prompts: RephraseTexts, prepared: str) -> Messages:
    """The LLM rewrites a response, prepared by :func:`src.corpus.stages.rephrase_text.prepare`, that stands in a tag.

    Description and prompt are left out on purpose: the rewriter can change the voice, not the content.
    """
    tag = prompts.response_tag
    return _messages(prompts.rephrase_system, f"{prompts.rephrase_instruction}\n<{tag}>\n{prepared}\n</{tag}>")


def checker_messages(checker_system: str, response_tag: str, prepared: str) -> Messages:
    """Another LLM judges whether a response, prepared like for rewriting, betrays that its author read a text."""
    return _messages(checker_system, f"<{response_tag}>\n{prepared}\n</{response_tag}>")


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
