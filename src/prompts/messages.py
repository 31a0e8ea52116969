"""Messages of the corpus stages, and the texts around the audio of an ensemble, from a prompt set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from src.prompts.texts import Prompts, fill

Messages = list[dict[str, str]]
"""Chat messages as every chat template takes them: ``role`` and ``content``."""


@dataclass(frozen=True)
class ResponseTexts:
    """A response that is to be rewritten or checked, with what its templates may show.

    ``response`` is as it was generated, ``prepared`` as :func:`src.corpus.targets.rephrase_text.prepare` makes it.
    """

    response: str
    prepared: str
    audio_description: str = ""
    prompt: str = ""


def self_generation_messages(prompts: Prompts, description: str, prompt: str) -> Messages:
    """The LLM answers ``prompt`` about a clip that it is given in words.

    The usual layout is the description between its marks, an empty line, the prompt.
    """
    fields = {
        "audio_description": description,
        "prompt": prompt,
        "description_open": prompts.description_open,
        "description_close": prompts.description_close,
    }
    return _messages(prompts.self_generation_system, fill(prompts.self_generation_user, fields))


def instruction_messages(question: str, context: str | None) -> Messages:
    """The LLM answers the question that is spoken in a clip, in one user turn.

    Context and question are on separate lines; without a context (``None``) the question stands alone, as it is.
    """
    return [{"role": "user", "content": question if context is None else f"{context}\n{question}".strip()}]


def writer_messages(prompts: Prompts, examples: Sequence[str], description: str, style: str) -> Messages:
    """The LLM writes prompts of a ``style`` for a described clip; ``examples`` are descriptions of its corpus."""
    system = prompts.writer_system.replace("{examples}", "\n".join(f"- {example}" for example in examples))
    return _messages(system, f"{_marked(prompts, description)}\n\n{style}")


def prompt_checker_messages(prompts: Prompts, description: str, candidates: Sequence[str]) -> Messages:
    """The LLM judges every prompt of a numbered list."""
    numbered = (f"{number}. {candidate}" for number, candidate in enumerate(candidates, 1))
    # further lines are indented, so that only prompts begin with a number
    listed = "\n".join(each.replace("\n", "\n   ") for each in numbered)
    return _messages(prompts.prompt_checker_system, f"{_marked(prompts, description)}\n\n{listed}")


def rephrase_messages(prompts: Prompts, row: ResponseTexts) -> Messages:
    """The LLM rewrites a response.

    The usual layout leaves description and prompt out on purpose: the rewriter can change the voice, not the content.
    """
    fields = {**asdict(row), **_tag_names(prompts), "rephrase_instruction": prompts.rephrase_instruction}
    return _messages(prompts.rephrase_system, fill(prompts.rephrase_user, fields))


def checker_messages(prompts: Prompts, checker_system: str, row: ResponseTexts) -> Messages:
    """Another LLM judges whether a response shows that its author read a text."""
    return _messages(checker_system, fill(prompts.checker_user, {**asdict(row), **_tag_names(prompts)}))


def ensemble_intro(prompts: Prompts, count: int) -> str:
    """Introduction for an ensemble of ``count`` checkpoints, before its first audio, with a line end."""
    return _line(fill(prompts.ensemble_intro, {"n": count}))


def ensemble_heading(prompts: Prompts, number: int, count: int) -> str:
    """Heading before the audio of checkpoint ``number`` (from 1) of ``count``, with a line end."""
    return _line(fill(prompts.ensemble_heading, {"i": number, "n": count}))


def clip_layout(prompts: Prompts, explicit: Sequence[bool]) -> tuple[tuple[str, str], tuple[str | None, ...]]:
    """Texts around a clip, and what is between them: texts, and None for the embeddings of each checkpoint in turn.

    ``explicit`` says, for each checkpoint, whether the tags around the audio are text instead of learned embeddings.
    """
    tags, nothing = (prompts.description_open, prompts.description_close), ("", "")
    count, around = len(explicit), len(explicit) == 1 or prompts.ensemble_tags == "around"
    # around all of them the first checkpoint decides, as in the published generate_vllm.py
    outer = tags if explicit[0] and around else nothing
    if count == 1:
        return outer, (None,)
    inside: list[str | None] = [ensemble_intro(prompts, count)]
    for number, own in enumerate(explicit, 1):
        opening, closing = tags if own and not around else nothing
        inside += [ensemble_heading(prompts, number, count) + opening, None, f"{closing}\n"]
    return outer, tuple(inside)


def _line(text: str) -> str:
    return text + ("" if text.endswith("\n") else "\n")


def _tag_names(prompts: Prompts) -> dict[str, str]:
    return {"response_tag": prompts.response_tag, "reasoning_tag": prompts.reasoning_tag}


def _marked(prompts: Prompts, description: str) -> str:
    return f"{prompts.description_open}{description}{prompts.description_close}"


def _messages(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
