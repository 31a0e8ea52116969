"""The prompt sets: the texts live in ``NAME.yaml`` beside this file, which reads and checks them.

A set holds the same keys for the full and the miniature system, so that no stage knows which one it uses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.common.config import bind_dataclass
from src.common.errors import UserError

TEXTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class RephraseExample:
    """One worked pair of the rephrasing task: the same response in a reader's and in a listener's voice."""

    title: str
    original: str
    rewritten: str


@dataclass(frozen=True)
class Prompts:
    """Every text that the system shows to a language model.

    System texts: ``generation_system`` (free questions), ``mcqa_system``, ``self_generation_system``,
    ``rephrase_system`` (its ``{examples}`` is filled with the worked pairs). ``rephrase_instruction`` opens the
    user turn of the rewriter; ``response_tag`` and ``reasoning_tag`` are the tag names around what is rewritten.
    ``description_open`` and ``description_close`` enclose a description (or the audio, where a checkpoint uses
    explicit audio tokens). ``question_tag`` and ``options_tag`` are tag names of a multiple-choice turn.
    ``ensemble_intro`` knows ``{n}``, ``ensemble_heading`` ``{i}`` (from 1) and ``{n}``; both stand on lines of
    their own. ``budget_closing`` ends thoughts whose budget is used up. ``betraying_phrases`` are words by which a
    response shows that it was written by a reader; ``checker_system`` is the task of a language model that looks for
    such responses and ends with YES or NO.

    Prompts of the corpora: ``writer_system`` (its ``{examples}``, if any, is filled with descriptions of the corpus),
    ``writer_styles`` (kinds of prompts, one of which stands behind the description), ``prompt_checker_system``.
    """

    generation_system: str
    mcqa_system: str
    self_generation_system: str
    rephrase_system: str
    rephrase_instruction: str
    response_tag: str
    reasoning_tag: str
    description_open: str
    description_close: str
    question_tag: str
    options_tag: str
    ensemble_intro: str
    ensemble_heading: str
    budget_closing: str
    betraying_phrases: tuple[str, ...]
    checker_system: str
    writer_system: str
    writer_styles: tuple[str, ...]
    prompt_checker_system: str
    rephrase_examples: tuple[RephraseExample, ...] = ()

    def __post_init__(self) -> None:
        if "</think>" not in self.budget_closing:
            raise ValueError("budget_closing must hold </think>, or the thoughts never end")
        if not self.writer_styles:
            raise ValueError("writer_styles is empty; give at least one kind of prompts")

    def digest(self) -> str:
        """Short hash of all texts, for run records and for telling results of other prompts apart."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def known_prompt_sets() -> list[str]:
    """Names that :func:`load_prompts` accepts."""
    return sorted(path.stem for path in TEXTS.glob("*.yaml"))


def load_prompts(name: str, overrides: Mapping[str, Any] | None = None) -> Prompts:
    """Read the prompt set ``name`` (``full`` or ``mini``); ``overrides`` replaces single texts.

    Raises :class:`UserError` for an unknown set and :class:`ConfigError` for missing or unknown keys.
    """
    path = TEXTS / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown prompt set {name!r}; known: {', '.join(known_prompt_sets())} (prompts)")
    data = {**yaml.safe_load(path.read_text(encoding="utf-8")), **(overrides or {})}
    prompts = bind_dataclass(Prompts, data, f"prompts.{name}")
    examples = "\n\n".join(_worked_pair(number, pair) for number, pair in enumerate(prompts.rephrase_examples, 1))
    return dataclasses.replace(prompts, rephrase_system=prompts.rephrase_system.replace("{examples}", examples))


def _worked_pair(number: int, pair: RephraseExample) -> str:
    return (
        f"Example {number}: {pair.title}\n"
        f"Received:\n<response>\n{pair.original}\n</response>\n"
        f"Output:\n<answer>\n{pair.rewritten}\n</answer>"
    )
