"""Scoring by words, as the files of MMAU and MMAR do it: same rule, other groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from src.benchmarks.outcomes import (
    LEFT_OUT,
    PREDICTION,
    RIGHT,
    WRONG,
    Row,
    Ruling,
    count_by,
    is_known,
    is_unread,
    strict_marks,
)  # fmt: skip
from src.benchmarks.rules import right_by_words
from src.benchmarks.spec import Grouping
from src.prompts.options import choice_texts


def word_ruling(rows: Sequence[Row], groupings: Sequence[Grouping], gold_key: str = "answer") -> Ruling:
    """Rows without the key ``model_prediction`` are not counted, an empty prediction is wrong.

    Values that crash the official files (null or numeric predictions, choices or answers, groups they do not know)
    are read as text or counted as wrong, and noted. Rows without an answer are not counted.
    """
    right = [_is_right(row, gold_key) for row in rows]
    given = [row.get(gold_key) is not None for row in rows]
    unread = tuple(is_unread(row) for row in rows)
    marks = "".join(
        LEFT_OUT if PREDICTION not in row or not has_gold else RIGHT if correct else WRONG
        for row, correct, has_gold in zip(rows, right, given, strict=True)
    )
    tables = {grouping.name: count_by(map(grouping.label, rows), marks, grouping.fixed) for grouping in groupings}
    ruling = Ruling(marks, strict_marks(right, unread, [is_known(row, gold_key) for row in rows]), unread, (), tables)
    return replace(
        ruling,
        lines=tuple(_lines(ruling)),
        numbers={"no_prediction_count": 0, "rows_skipped_no_key": _without_key(rows)},
        notes=tuple(_notes(rows, groupings, gold_key)),
    )


def _is_right(row: Row, gold_key: str) -> bool:
    prediction, gold = row.get(PREDICTION), row.get(gold_key)
    if prediction is None or gold is None:
        return False
    return right_by_words(str(prediction), str(gold), choice_texts(row.get("choices")))


def _without_key(rows: Sequence[Row]) -> int:
    return sum(PREDICTION not in row for row in rows)


def _lines(ruling: Ruling) -> list[str]:
    lines = []
    for name, counts in ruling.tables.items():
        lines.append(f"{name}:")
        lines += [f"{label} : {count.percent}% over {count.n} samples" for label, count in counts.items()]
    count = ruling.published
    return [*lines, f"Total Accuracy: {count.percent}% over {count.n} samples", "No prediction count: 0"]


def _notes(rows: Sequence[Row], groupings: Sequence[Grouping], gold_key: str) -> list[str]:
    """What would have ended the official file, with the rows' numbers."""
    checks = {
        "the prediction is no text (null: wrong; other values are read as text)": [
            PREDICTION in row and not isinstance(row[PREDICTION], str) for row in rows
        ],
        "the answer is no text (null or missing: not counted)": [
            not isinstance(row.get(gold_key), str) for row in rows
        ],
        "a choice is no text": [any(not isinstance(item, str) for item in row.get("choices") or ()) for row in rows],
    }
    for grouping in groupings:
        if grouping.fixed:
            checks[f"a {grouping.name} the official file does not know"] = [
                grouping.label(row) not in grouping.fixed for row in rows
            ]
    return [_note(what, flags) for what, flags in checks.items() if any(flags)]


def _note(what: str, flags: Sequence[bool]) -> str:
    found = [number for number, flag in enumerate(flags) if flag]
    shown = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
    return f"{len(found)} row(s): {what}; row {shown}. The official file stops there."
