"""Multiple-choice questions: how options are laid out for the model, and what its reply means."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from src.prompts.templates import fill
from src.prompts.thoughts import extract_answer, split_response

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
    "unfinished_thoughts",
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
    ``unfinished_thoughts`` is a response that ends inside its thoughts and so has no answer. ``extracted`` is the
    text that was read.
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
    """Keys of a prompt set that :func:`layout_question` reads."""

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


def read_choices(value: Any) -> list[str]:
    """Texts of a row's options, whatever form its data set gives them.

    A list of texts or numbers; a struct (``{"A": "yes", "B": "no"}``: values in the order of the keys; null is a key
    that the row does not have, since all structs of a column have the same keys); ``{"text": [...], "label": ...}``;
    or a text that contains one of these as JSON or Python literal. Raises ValueError with the reason if there are no
    options, or one of them is null or no single value.
    """
    choices = _listed(value)
    if not choices:
        raise ValueError("the row has no choices")
    for number, choice in enumerate(choices):
        if choice is None or isinstance(choice, (Mapping, list, tuple)):
            found = "null" if choice is None else f"a {type(choice).__name__}"
            raise ValueError(f"choice {number} of {len(choices)} is {found}, expected a text")
    return [str(choice) for choice in choices]


def choice_texts(value: Any) -> list[str]:
    """:func:`read_choices` for what is only compared or shown: unusable options become their text, too."""
    try:
        return [str(choice) for choice in _listed(value)]
    except ValueError:
        return []


def _listed(value: Any) -> Sequence[Any]:
    """The options as a list; empty if there are none. Raises ValueError for a text without a list."""
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, Mapping):
        named = value.get("text")
        return named if isinstance(named, (list, tuple)) else _in_key_order(value)
    return value if isinstance(value, (list, tuple)) else []


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (Mapping, list, tuple)):
            return found
    raise ValueError(f"choices is a text without a list: {text[:60]!r}")


def _in_key_order(options: Mapping[Any, Any]) -> list[Any]:
    """Values by key; keys that are numbers in their own order, before others."""

    def place(key: Any) -> tuple[int, int, str]:
        text = str(key)
        return (0, int(text), text) if text.isdecimal() and text.isascii() else (1, 0, text)

    return [options[key] for key in sorted(options, key=place) if options[key] is not None]


def shuffled_order(count: int, seed: int, key: str) -> list[int]:
    """Order in which a row's options are shown: place -> number of the option in the data set.

    It depends on the seed and the row's key alone, so that all systems asked with one seed see the same order.
    """
    order = list(range(count))
    random.Random(f"{seed}:{key}").shuffle(order)
    return order


def read_reply(
    response: str, choices: Sequence[str], fallback: AnswerFallback = "none", inside_thoughts: bool = True
) -> ParsedAnswer:
    """The option that a whole response chose: only what follows the end of its thoughts is an answer.

    ``inside_thoughts`` as in :func:`~src.prompts.thoughts.split_response`. With ``fallback="option_0"`` the choice is
    the published one, for which answer tags inside the thoughts count too; the status stays that of our reading.
    """
    split = split_response(response, inside_thoughts)
    if split.status == "unfinished_thoughts":
        ours = ParsedAnswer(None, "unfinished_thoughts", "")
    else:
        ours = map_answer(split.answer, choices)
    if fallback == "none":
        return ours
    return replace(ours, choice=map_answer(response, choices, fallback).choice)


def map_answer(text: str, choices: Sequence[str], fallback: AnswerFallback = "none") -> ParsedAnswer:
    """Map an answer to one of ``choices``.

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
