"""Multiple-choice questions: how options are laid out for the model, and what its reply means."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from src.prompts.templates import fill
from src.prompts.thoughts import extract_answer

AnswerFallback = Literal["none", "option_0"]
ParseStatus = Literal[
    "index",
    "value",
    "negative_index",
    "out_of_range",
    "empty",
    "letter",
    "option_text",
    "option_label",
    "decimal",
    "several_numbers",
    "too_many_digits",
    "not_a_number",
]
READ_STATUSES: tuple[ParseStatus, ...] = ("index", "value")
"""Statuses of replies that named an option; with every other the reply is unparsed."""
_FORMS: tuple[tuple[ParseStatus, re.Pattern[str]], ...] = (
    ("option_label", re.compile(r"\(?\s*option[\s_]*-?\d+.*", re.IGNORECASE | re.DOTALL)),
    ("decimal", re.compile(r"[+-]?\d+\.\d*|[+-]?\.\d+")),
    ("several_numbers", re.compile(r"[+-]?\d+(?:(?:\s*(?:,|;|/|&|and|or)\s*|\s+)[+-]?\d+)+", re.IGNORECASE)),
    ("letter", re.compile(r"\(?[A-Za-z]\)?[.:]?")),
    ("too_many_digits", re.compile(r"[+-]?\d{4301,}")),
)


@dataclass(frozen=True)
class ParsedAnswer:
    """What a reply chose.

    ``choice`` is the text of the option, or ``None`` if the reply could not be read. ``status`` says how it was
    read, in every fallback mode alike: ``index`` (an option's number), ``value`` (a number that is no option's
    number but is an option's text), the unreadable numbers ``negative_index`` and ``out_of_range``, and what is no
    number: ``empty``, ``letter`` (B), ``option_text``, ``option_label`` (Option_2), ``decimal`` (2., 2.0),
    ``several_numbers`` (1, 2), ``too_many_digits`` (more than Python converts), ``not_a_number`` (anything else).
    ``extracted`` is the text that was read.
    """

    choice: str | None
    status: ParseStatus
    extracted: str

    @property
    def parsed(self) -> bool:
        """Whether the reply itself named an option (a fallback choice does not count)."""
        return self.status in READ_STATUSES


MCQA_USER = "<{question_tag}>\n{question}\n</{question_tag}>\n<{options_tag}>\n{options}</{options_tag}>"
OPTION_LINE = "(Option_{number}) {option}\n"
"""The usual layout of a question and of each of its options."""


class ChoiceTexts(Protocol):
    """What :func:`layout_question` reads of a prompt set."""

    @property
    def mcqa_user(self) -> str:
        """Template of the user turn, with ``{question}`` and ``{options}``."""

    @property
    def option_line(self) -> str:
        """Template of an option with its line end."""

    @property
    def question_tag(self) -> str:
        """Name of the tag around the question."""

    @property
    def options_tag(self) -> str:
        """Name of the tag around the options."""


@dataclass(frozen=True)
class UsualChoiceTexts:
    """The layout of all shipped prompt sets."""

    mcqa_user: str = MCQA_USER
    option_line: str = OPTION_LINE
    question_tag: str = "question"
    options_tag: str = "options"


def layout_question(question: str, choices: Sequence[str], prompts: ChoiceTexts | None = None) -> str:
    """The user's text of a multiple-choice question.

    Options are numbered from 0. The usual layout writes each on a line of its own, and question and options in tags.
    """
    texts = prompts or UsualChoiceTexts()
    options = "".join(
        fill(texts.option_line, {"number": number, "option": choice}) for number, choice in enumerate(choices)
    )
    fields = {
        "question": question,
        "options": options,
        "question_tag": texts.question_tag,
        "options_tag": texts.options_tag,
    }
    return fill(texts.mcqa_user, fields)


def shuffled_order(count: int, seed: int, key: str) -> list[int]:
    """Order in which a row's options are shown: place -> number of the option in the data set.

    It depends on the seed and the row's key alone, so that all systems asked with one seed see the same order.
    """
    order = list(range(count))
    random.Random(f"{seed}:{key}").shuffle(order)
    return order


def map_answer(text: str, choices: Sequence[str], fallback: AnswerFallback = "none") -> ParsedAnswer:
    """Map a response to one of ``choices``.

    The answer tags' text must be an integer. With ``fallback="none"`` everything that names no option is unread:
    ``choice`` is ``None``. ``fallback="option_0"`` is the published behaviour: negative numbers count from the
    end, a number out of range stands as text, and whatever is no number becomes the first option.
    """
    extracted = extract_answer(text)
    published = fallback == "option_0"
    try:
        number = int(extracted)
    except ValueError:  # also raised for more digits than Python converts
        status = _form_of(extracted, choices)
        return ParsedAnswer(choices[0] if published and choices else None, status, extracted)
    if 0 <= number < len(choices):
        return ParsedAnswer(choices[number], "index", extracted)
    if str(number) in choices:
        negative_position = published and number >= -len(choices) and number < 0
        return ParsedAnswer(choices[number] if negative_position else str(number), "value", extracted)
    if -len(choices) <= number < 0:
        return ParsedAnswer(choices[number] if published else None, "negative_index", extracted)
    return ParsedAnswer(str(number) if published else None, "out_of_range", extracted)


def _form_of(extracted: str, choices: Sequence[str]) -> ParseStatus:
    """What a text that is no integer looks like."""
    if not extracted:
        return "empty"
    if extracted.casefold() in (choice.strip().casefold() for choice in choices):
        return "option_text"
    return next((form for form, pattern in _FORMS if pattern.fullmatch(extracted)), "not_a_number")
