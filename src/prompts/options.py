"""Multiple-choice questions: how options are laid out for the model, and what its reply means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from src.prompts.thoughts import extract_answer

AnswerFallback = Literal["none", "option_0"]
ParseStatus = Literal["index", "value", "negative_index", "out_of_range", "empty", "not_a_number"]


@dataclass(frozen=True)
class ParsedAnswer:
    """What a reply chose.

    ``choice`` is the text of the option, or ``None`` if the reply could not be read. ``status`` says how it was
    read, in every fallback mode alike: ``index`` (an option's number), ``value`` (a number that is no option's
    number but is an option's text), and the unreadable ones ``negative_index``, ``out_of_range``, ``empty``,
    ``not_a_number``. ``extracted`` is the text that was read.
    """

    choice: str | None
    status: ParseStatus
    extracted: str

    @property
    def parsed(self) -> bool:
        """Whether the reply itself named an option (a fallback choice does not count)."""
        return self.status in ("index", "value")


def layout_question(
    question: str, choices: Sequence[str], question_tag: str = "question", options_tag: str = "options"
) -> str:
    """The user's text of a multiple-choice question: options numbered from 0, one a line, both parts in tags."""
    options = "\n".join(f"(Option_{number}) {choice}" for number, choice in enumerate(choices))
    return f"<{question_tag}>\n{question}\n</{question_tag}>\n<{options_tag}>\n{options}\n</{options_tag}>"


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
        status: ParseStatus = "not_a_number" if extracted else "empty"
        return ParsedAnswer(choices[0] if published and choices else None, status, extracted)
    if 0 <= number < len(choices):
        return ParsedAnswer(choices[number], "index", extracted)
    if str(number) in choices:
        negative_position = published and number >= -len(choices) and number < 0
        return ParsedAnswer(choices[number] if negative_position else str(number), "value", extracted)
    if -len(choices) <= number < 0:
        return ParsedAnswer(choices[number] if published else None, "negative_index", extracted)
    return ParsedAnswer(str(number) if published else None, "out_of_range", extracted)
