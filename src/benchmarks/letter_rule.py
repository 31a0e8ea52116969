"""Scoring by letters, as the official files of MMSU and AIR-Bench Foundation do it, and by exact text, as the
published system does it on the same metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from src.benchmarks.outcomes import LEFT_OUT, PREDICTION, RESPONSE, RIGHT, WRONG, Row, is_known, is_unread
from src.benchmarks.rules import CHOICE_KEYS, LETTERS, clean, is_blank, letter_of, read_letter

GOLD = "answer_gt"


@dataclass(frozen=True)
class Marks:
    """Marks of a rule over a file: as published, the same with every row counted, and which replies were unread."""

    published: str
    right: tuple[bool, ...]
    unread: tuple[bool, ...]
    known: tuple[bool, ...]
    stale: tuple[int, ...] = ()


def mark_letters(rows: Sequence[Row], is_right: Callable[[Row, str], bool], reuse_letters: bool) -> Marks:
    """The official rule over ``response``. ``is_right`` compares a letter with the row's answer.

    With ``reuse_letters`` (MMSU's file) a blank reply is scored with the letter of the row before; such rows are
    listed in ``stale`` and unread for us. Without, and for unreadable replies always, the row is not counted.
    """
    published, right, unread, stale = "", [], [], []
    last: str | None = None
    for number, row in enumerate(rows):
        response = row.get(RESPONSE, "")
        letter = read_letter(response) if isinstance(response, str) else None
        right.append(letter is not None and is_right(row, letter))
        unread.append(letter is None)
        if letter is not None:
            last = letter
            published += RIGHT if right[-1] else WRONG
        elif reuse_letters and isinstance(response, str) and is_blank(response) and last is not None:
            stale.append(number)
            published += RIGHT if is_right(row, last) else WRONG
        else:
            published += LEFT_OUT
    return Marks(published, tuple(right), tuple(unread), _known(rows), tuple(stale))


def mark_texts(rows: Sequence[Row], prediction: Callable[[Row], object]) -> Marks:
    """The published text rule over ``model_prediction``: exactly equal texts, every row counts.

    ``prediction`` gives the text that the published scorer compares, for rows without a prediction too. A row is
    unread, and wrong for us, if it has no prediction of its own.
    """
    right = tuple(clean(prediction(row)) == clean(row.get(GOLD, "")) for row in rows)
    return Marks(
        "".join(RIGHT if equal else WRONG for equal in right),
        right,
        tuple(is_unread(row) for row in rows),
        _known(rows),
    )


def as_replies(rows: Sequence[Row]) -> list[Row]:
    """The rows with the chosen text's letter as ``response``, for the official rule; unread ones stay blank.

    A text that is no option's (a number out of range) is no letter either: the official file could not read it.
    """
    replies: list[Row] = []
    for row in rows:
        letter = None
        if not is_unread(row):
            texts = [clean(row[key]) if key in row else None for key in CHOICE_KEYS]
            letter = letter_of(clean(row[PREDICTION]), [text if text is not None else "\0" for text in texts])
        replies.append({**row, RESPONSE: letter or ""})
    return replies


def choice_text(row: Row, letter: str) -> object:
    """The choice of a letter; the empty text if the row has none, as the official files read it."""
    return row.get(CHOICE_KEYS[LETTERS.index(letter)], "")


def gold_letter(row: Row) -> str | None:
    """The first letter whose choice equals the answer; None if none does."""
    gold = row.get(GOLD)
    return next((letter for letter in LETTERS if _has(row, letter) and choice_text(row, letter) == gold), None)


def _has(row: Mapping[str, object], letter: str) -> bool:
    return CHOICE_KEYS[LETTERS.index(letter)] in row


def _known(rows: Sequence[Row]) -> tuple[bool, ...]:
    return tuple(is_known(row, GOLD) for row in rows)
