"""Multiple-choice questions: how options are laid out for the model, and what its reply means."""

from __future__ import annotations

import ast
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from src.prompts.reasoning import THINKING, Reasoning, extract_answer, split_response
from src.prompts.texts import AnswerStyle, Prompts, fill

AnswerFallback = Literal["none", "option_0"]
ParseStatus = Literal[
    "index", "value", "negative_index", "out_of_range", "empty", "letter", "option_text", "option_label", "decimal",
    "several_numbers", "too_many_digits", "not_a_number", "unfinished_thoughts",
    "chosen_letter", "chosen_text", "several_options", "no_option",
]  # fmt: skip
LIKELIHOOD = "likelihood"
"""Status of a row whose option was chosen by likelihood, whatever was written."""
READ_STATUSES: tuple[str, ...] = ("index", "value", "chosen_letter", "chosen_text", LIKELIHOOD)
"""Statuses of rows with a chosen option; with every other the reply is unparsed."""
# In longer replies only capitals are letters of options, and behind "answer" also without a sign after them. "C#",
# "E-flat" and "D'Angelo" are none.
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]?")
_LABEL = re.compile(r"(?:^|(?<=[\s(]))([A-Z])[).:](?=\s|$)", re.MULTILINE)
_FIRST_LABEL = re.compile(r"\(?([A-Z])[).:]\s*\S.*", re.DOTALL)
_SENTENCE = re.compile(
    r"(?<!not )(?<!not the )(?i:\b(?:answer|option|choice))(?i:\s+is)?\s*:?\s*\(?([A-Z])\b(?![#♯♭'’-])"
)
_SIGNS = re.compile(r"(?<!\w)[-−–](?=\.?\d)|(?<=\d)[.,](?=\d)|(?<!\w)\.(?=\d)|(?<=[A-Ga-g])[#♯](?!\w)")
"""Punctuation that makes another answer: a minus, a decimal point, a sharp."""
_FORMS: tuple[tuple[ParseStatus, re.Pattern[str]], ...] = (
    ("option_label", re.compile(r"\(?\s*option[\s_]*-?\d+.*", re.IGNORECASE | re.DOTALL)),
    ("decimal", re.compile(r"[+-]?\d+\.\d*|[+-]?\.\d+")),
    ("several_numbers", re.compile(r"[+-]?\d+(?:(?:\s*(?:,|;|/|&|and|or)\s*|\s+)[+-]?\d+)+", re.IGNORECASE)),
    ("letter", re.compile(r"\(?[A-Za-z]\)?[.:]?")),
    # https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
    ("too_many_digits", re.compile(r"[+-]?\d{4301,}")),
)


@dataclass(frozen=True)
class ParsedAnswer:
    """The option that a reply chose.

    ``choice`` is the text of the option, or ``None`` if the reply could not be parsed. ``status`` says how it was
    parsed, in every fallback mode alike: ``index`` (an option's number), ``value`` (a number that is no option's
    number but is an option's text), the unusable numbers ``negative_index`` and ``out_of_range``, and what is no
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


def layout_question(question: str, choices: Sequence[str], prompts: Prompts | None = None) -> str:
    """The user's text of a multiple-choice question, without ``prompts`` in the layout of the shipped sets.

    Options are numbered from 0. The usual layout writes each on a line of its own, and question and options in tags.
    """
    texts = prompts or Prompts
    options = "".join(
        fill(texts.option_line, {"number": number, "letter": letter_of(number), "option": choice})
        for number, choice in enumerate(choices)
    )
    fields = {
        "question": question,
        "options": options,
        "option_lines": options.removesuffix("\n"),
        "option_list": str(list(choices)),
        "question_tag": prompts.question_tag if prompts else "question",
        "options_tag": prompts.options_tag if prompts else "options",
    }
    return fill(texts.mcqa_user, fields)


def letter_of(number: int) -> str:
    """Letter of an option: A for 0; options beyond Z have none and show their number, counted from 1."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def read_choices(value: Any) -> list[str]:
    """Texts of a row's options, in any form that data sets have them.

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
        if isinstance(named, (list, tuple)):
            return named
        # Arrow gives all structs of a column the same keys: nulls are keys that the row does not have
        return [value[key] for key in sorted(value, key=_key_place) if value[key] is not None]
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


def _key_place(key: Any) -> tuple[int, int, str]:
    """Sorts keys that are numbers by value, before others."""
    text = str(key)
    return (0, int(text), text) if text.isdecimal() and text.isascii() else (1, 0, text)


def shuffled_order(count: int, seed: int, key: str) -> list[int]:
    """Order in which a row's options are shown: place -> number of the option in the data set.

    It depends only on the seed and the row's key, so that all systems asked with one seed see the same order.
    """
    order = list(range(count))
    # a text as seed gives the same order in every process, unlike its hash()
    random.Random(f"{seed}:{key}").shuffle(order)
    return order


def read_reply(
    response: str,
    choices: Sequence[str],
    fallback: AnswerFallback = "none",
    reasoning: Reasoning = THINKING,
    style: AnswerStyle = "number",
) -> ParsedAnswer:
    """The option that a response chose: only the text after its thoughts is an answer.

    ``style`` is that of the prompt set. With ``fallback="option_0"`` an unparsed letter or text chooses the first
    option. For numbers it means: the choice is the published one, for which answer tags inside the thoughts count
    too; the status stays that of our reading.
    """
    split = split_response(response, reasoning)
    if split.status == "unfinished_thoughts":
        ours = ParsedAnswer(None, "unfinished_thoughts", "")
    else:
        ours = map_answer(split.answer, choices) if style == "number" else match_option(split.answer, choices, style)
    if style != "number":
        return replace(ours, choice=choices[0]) if fallback == "option_0" and choices and not ours.parsed else ours
    if fallback == "none":
        return ours
    # the published parser does not separate the thoughts
    return replace(ours, choice=map_answer(response, choices, fallback).choice)


def map_answer(text: str, choices: Sequence[str], fallback: AnswerFallback = "none") -> ParsedAnswer:
    """Map an answer to one of ``choices``.

    The answer tags' text must be an integer. With ``fallback="none"`` everything that names no option is unparsed:
    ``choice`` is ``None``. ``fallback="option_0"`` is the published behaviour: negative numbers count from the
    end, a number out of range is kept as text, and anything that is no number becomes the first option.
    """
    extracted = extract_answer(text)
    published = fallback == "option_0"
    # int() also takes +3, 01, 1_0 and the digits of other scripts, as the published mapping does
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


def match_option(text: str, choices: Sequence[str], style: AnswerStyle) -> ParsedAnswer:
    """Map an answer to one of ``choices`` by its letter or its text, as the prompt asked for.

    A letter may stand alone (B, (b), B.), before a text (B. rain), or in a sentence (the answer is B). The text of an
    option always counts, whatever its case and punctuation; with ``style="text"`` also inside a longer answer, if it
    is the only option there. Signs of numbers, decimal points and sharps are no punctuation. Statuses:
    ``chosen_letter``, ``chosen_text``, ``several_options``, ``out_of_range``, ``empty``, ``no_option``.
    """
    extracted = extract_answer(text)
    bare = extracted.strip().strip("*_`\"'").strip()
    if not bare:
        return ParsedAnswer(None, "empty", extracted)
    words = [_words(choice) for choice in choices]
    equal = {choice for choice in words if choice and choice == _words(bare)}
    if equal:
        return _chosen_text(equal, bare, choices, words, extracted)
    if style == "letter":
        found = _LETTER.fullmatch(bare)
        numbers = {ord(found[1].upper()) - ord("A")} if found else _named_by_letter(bare, words)
        if len(numbers) > 1:
            return ParsedAnswer(None, "several_options", extracted)
        if not numbers:
            return ParsedAnswer(None, "no_option", extracted)
        number = numbers.pop()
        if number >= len(choices):
            return ParsedAnswer(None, "out_of_range", extracted)
        return ParsedAnswer(choices[number], "chosen_letter", extracted)
    spoken = f" {_words(bare)} "
    inside = [choice for choice in words if choice and f" {choice} " in spoken]
    # "red car" also contains "car"
    longest = {
        choice for choice in inside if not any(choice != other and f" {choice} " in f" {other} " for other in inside)
    }
    return _chosen_text(longest, bare, choices, words, extracted)


def _chosen_text(
    named: set[str], reply: str, choices: Sequence[str], words: Sequence[str], extracted: str
) -> ParsedAnswer:
    """The option whose words are the only ones in ``named``; of options with the same words, the one as written."""
    found = list(dict.fromkeys(choice for choice, own in zip(choices, words, strict=True) if own in named))
    if len(named) == 1 and len(found) > 1:  # "C++" and "C", "1/2" and "1 2"
        written = f" {_as_written(reply)} "
        found = [choice for choice in found if f" {_as_written(choice)} " in written]
    if len(found) == 1:
        return ParsedAnswer(found[0], "chosen_text", extracted)
    return ParsedAnswer(None, "several_options" if named else "no_option", extracted)


def _named_by_letter(reply: str, words: Sequence[str]) -> set[int]:
    """Numbers of the options whose letters a longer reply names, as labels or in sentences."""
    first = _FIRST_LABEL.fullmatch(reply)
    # further capitals with a full stop may be initials of a name
    labels = {ord(letter) - ord("A") for letter in _LABEL.findall(reply)} & set(range(len(words)))
    numbers = labels | {ord(first[1]) - ord("A")} if first else set()
    for sentence in _SENTENCE.finditer(reply):
        numbers.add(ord(sentence[1]) - ord("A"))
        if sentence[1] == "A":  # may be the article: "the answer is A woman"
            following = f"{_words(reply[sentence.start(1) :])} "
            texts = {number for number, own in enumerate(words) if own and following.startswith(f"{own} ")}
            nouns = {number for number, own in enumerate(words) if own and following.startswith(f"a {own} ")}
            numbers = (numbers - {0} if texts else numbers) | texts | nouns
    return numbers


def _words(text: str) -> str:
    """Words of a text in lower case with one blank between them, without punctuation but with :data:`_SIGNS`."""
    text = unicodedata.normalize("NFC", text)
    signs = {match.start() for match in _SIGNS.finditer(text)}
    kept = "".join(
        # vowel signs of Indian and other scripts are marks, not letters
        each if each.isalnum() or unicodedata.category(each)[0] == "M" or place in signs else " "
        for place, each in enumerate(text)
        if unicodedata.category(each) != "Cf"
    )
    return " ".join(kept.translate({0x2212: "-", 0x2013: "-", 0x266F: "#"}).casefold().split())


def _as_written(text: str) -> str:
    """A text in lower case with one blank between its words, each without quotes and punctuation of sentences."""
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(filter(None, (word.strip(".,;:!?()\"'*_`“”‘’") for word in words)))


def _form_of(extracted: str, choices: Sequence[str]) -> ParseStatus:
    """Status of a text that is no integer, by its form."""
    if not extracted:
        return "empty"
    if extracted.casefold() in (choice.strip().casefold() for choice in choices):
        return "option_text"
    return next((form for form, pattern in _FORMS if pattern.fullmatch(extracted)), "not_a_number")
