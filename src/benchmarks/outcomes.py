"""What a rule makes of the rows of a file: right, wrong or not counted; and counts by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from src.prompts.options import READ_STATUSES

Row = Mapping[str, Any]
RIGHT, WRONG, LEFT_OUT = "C", "W", "-"
"""Marks of a row: right, wrong, not counted by the rule."""
PREDICTION, RESPONSE, STATUS = "model_prediction", "response", "parse_status"
"""Keys of a scored row: the chosen option's text; the letter reply of the official files; how it was read."""


@dataclass(frozen=True)
class Count:
    """Rows that were right, of those that were counted."""

    right: int = 0
    n: int = 0

    @property
    def share(self) -> float:
        """Accuracy; 0 without rows, as the published scorers print it."""
        return self.right / self.n if self.n else 0.0

    @property
    def percent(self) -> str:
        """Accuracy in percent with two decimals."""
        return f"{self.share * 100:.2f}"


@dataclass(frozen=True)
class Ruling:
    """One rule's verdict over a file.

    ``marks`` has the published scorer's mark for each row in file order, ``lines`` what it prints, ``tables`` its
    groups by table name, ``numbers`` single values. ``strict`` are the marks of the same rule with every row counted
    that has a known answer: an unread reply is wrong, whatever the published scorer makes of it. ``unread`` flags
    those replies, ``notes`` tell where the published scorer would have crashed, ``stale`` which blank
    replies it scores with an earlier row's letter.
    """

    marks: str
    strict: str
    unread: tuple[bool, ...]
    lines: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Count]] = field(default_factory=dict)
    numbers: Mapping[str, str | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stale: tuple[int, ...] = ()

    @property
    def published(self) -> Count:
        """Rows as the published scorer counts them."""
        return total(self.marks)

    @property
    def all_rows(self) -> Count:
        """Every row with a known answer."""
        return total(self.strict)

    @property
    def answered(self) -> Count:
        """Rows whose reply was read."""
        return total("".join(mark for mark, unread in zip(self.strict, self.unread, strict=True) if not unread))


def total(marks: str) -> Count:
    """Right and counted rows of a string of marks."""
    return Count(marks.count(RIGHT), len(marks) - marks.count(LEFT_OUT))


def count_by(labels: Iterable[str | None], marks: Iterable[str], fixed: Sequence[str] = ()) -> dict[str, Count]:
    """Counts by label: the ``fixed`` labels first, then others as they appear. No label and ``-`` are left out."""
    right: dict[str, int] = dict.fromkeys(fixed, 0)
    seen: dict[str, int] = dict.fromkeys(fixed, 0)
    for label, mark in zip(labels, marks, strict=True):
        if label is not None and mark != LEFT_OUT:
            right[label] = right.get(label, 0) + (mark == RIGHT)
            seen[label] = seen.get(label, 0) + 1
    return {label: Count(right[label], seen[label]) for label in seen}


def label_of(row: Row, key: str) -> str | None:
    """The row's group by a column; None if it has none. Of a list of labels the first counts."""
    value = row.get(key)
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    return None if value is None else str(value)


def is_known(row: Row, gold_key: str) -> bool:
    """Whether the row's right answer is known: hidden ones are null or blank in the published files."""
    value = row.get(gold_key)
    return value is not None and bool(str(value).strip())


def is_unread(row: Row, key: str = PREDICTION) -> bool:
    """Whether the row holds no answer: none at all, a blank one, or one that stands for an unreadable reply."""
    value = row.get(key)
    if value is None or not str(value).strip():
        return True
    return row.get(STATUS) not in (None, *READ_STATUSES)


def strict_marks(marks: Iterable[bool], unread: Iterable[bool], known: Iterable[bool]) -> str:
    """Marks with every row of a known answer counted: right if the rule says so and the reply was read."""
    return "".join(
        LEFT_OUT if not has_gold else RIGHT if right and not blank else WRONG
        for right, blank, has_gold in zip(marks, unread, known, strict=True)
    )
