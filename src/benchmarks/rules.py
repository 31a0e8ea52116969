"""The rules by which one answer is right: words, letters, exact text. Pure functions of a row's texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

LETTERS = "ABCD"
CHOICE_KEYS = ("choice_a", "choice_b", "choice_c", "choice_d")
_WORDS = re.compile(r"\w+")


@lru_cache(maxsize=65536)
def words(text: str) -> frozenset[str]:
    """Set of the lower-cased text's maximal runs of word characters (letters, digits, underscore of any script)."""
    return frozenset(_WORDS.findall(text.lower()))


def right_by_words(prediction: str, answer: str, choices: Iterable[str]) -> bool:
    """The word rule of MMAU and MMAR (their ``evaluation.py``).

    Right if all words of the answer are in the prediction and none that only another choice has. The order of words
    does not matter, punctuation vanishes, a prediction without words is wrong.
    """
    given, wanted = words(prediction), words(answer)
    if not given or not wanted <= given:
        return False
    return all((words(choice) - wanted).isdisjoint(given) for choice in choices)


def clean(value: object) -> str:
    """A value as the published text rule compares it: text, outer blanks off, line breaks dropped without a blank."""
    return str(value).strip().replace("\n", "")


def read_letter(response: str) -> str | None:
    """The letter of a reply by the official rule of MMSU and AIR-Bench, None if it holds none.

    The first character decides if it is A, B, C or D; otherwise the last but one. So ``Answer: C`` is A,
    ``(C)`` is C, and ``the answer is C`` is none.
    """
    text = clean(response)
    if not text or text == "None":
        return None
    if text[0] in LETTERS:
        return text[0]
    return text[-2] if len(text) > 1 and text[-2] in LETTERS else None


def is_blank(response: str) -> bool:
    """Whether the official letter rule takes the reply for no reply at all: nothing, or the word None."""
    return clean(response) in ("", "None")


def letter_of(text: str, choices: Sequence[str]) -> str | None:
    """Letter of the first choice with that text; None if there is none below E."""
    return next((letter for letter, choice in zip(LETTERS, choices, strict=False) if choice == text), None)
