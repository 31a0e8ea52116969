"""Join saved answers with the questions they belong to, by key and never by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from src.common.errors import UserError
from src.prompts.options import choice_texts

Row = Mapping[str, Any]
CHOICES = "choices"
_SHOWN = 5


def join_by_key(
    questions: Iterable[Row],
    answers: Iterable[Row],
    *,
    key: str = "dataset_index",
    same: Mapping[str, str] | None = None,
    where: str = "answers",
    partial: bool = False,
) -> list[tuple[Row, Row]]:
    """Pairs ``(question, answer)`` in the order of the questions.

    Args:
        questions: rows of the benchmark.
        answers: rows of a run over it, in any order.
        key: column that identifies a row in both.
        same: question column -> answer column whose values must also be equal where both rows have them, e.g. the
            question's text.
        where: named in messages, e.g. the run's folder.
        partial: allow questions without an answer (a run over the first rows only).

    Raises:
        UserError: for rows without the key, repeated keys, answers to no question, missing answers, or a pair whose
            ``same`` columns differ: such a join would score answers against the wrong questions.
    """
    asked = _by_key(questions, key, "benchmark")
    given = _by_key(answers, key, where)
    _refuse([k for k in given if k not in asked], f"{where}: answers without a question in the benchmark", key)
    if not partial:
        _refuse([k for k in asked if k not in given], f"{where}: questions without an answer", key)
    pairs = [(row, given[k]) for k, row in asked.items() if k in given]
    for asked_as, saved_as in (same or {}).items():
        both = [(q, a) for q, a in pairs if asked_as in q and saved_as in a]
        differing = [a[key] for q, a in both if _plain(q[asked_as], asked_as) != _plain(a[saved_as], asked_as)]
        _refuse(differing, f"{where}: column {saved_as!r} differs from the benchmark's {asked_as!r}", key)
    return pairs


def _by_key(rows: Iterable[Row], key: str, where: str) -> dict[Any, Row]:
    found: dict[Any, Row] = {}
    repeated = []
    for row in rows:
        if key not in row:
            raise UserError(
                f"{where}: a row has no {key!r}; it has {', '.join(row)}. Rows are joined by that column."
            )
        if row[key] in found:
            repeated.append(row[key])
        found[row[key]] = row
    _refuse(repeated, f"{where}: rows that share one key", key)
    return found


def _refuse(keys: list[Any], what: str, key: str) -> None:
    if keys:
        shown = ", ".join(map(str, keys[:_SHOWN])) + (", …" if len(keys) > _SHOWN else "")
        raise UserError(
            f"{what}: {len(keys)} row(s), {key} {shown}. The run and the benchmark must come from the same data; "
            "generate the answers again for this benchmark."
        )


def _plain(value: Any, column: str) -> Any:
    """The value as it is compared: options in any form as their texts."""
    return choice_texts(value) if column == CHOICES else value
