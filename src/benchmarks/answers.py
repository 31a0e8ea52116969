"""Saved answers put beside the metadata of a benchmark, by id: what ``create_answer_json.py`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.benchmarks.join import join_by_key
from src.benchmarks.letter_rule import as_replies
from src.benchmarks.outcomes import PREDICTION, RESPONSE, STATUS, Row
from src.benchmarks.spec import Benchmark
from src.common.errors import UserError
from src.prompts.options import choice_texts

_SHOWN = 5
DETAILS = (STATUS, "finish_reason", "budget_hit", "error")
"""Columns of an answer that are kept beside the prediction where they were recorded."""


@dataclass(frozen=True)
class Answered:
    """Metadata rows with their predictions, in the metadata's order, and what was left out (partial joins only).

    ``indexes`` has each row's ``dataset_index``.
    """

    rows: list[dict[str, Any]]
    left_out: tuple[str, ...] = ()
    indexes: tuple[int, ...] = ()


def join_answers(
    spec: Benchmark,
    base: Iterable[Row],
    answers: Iterable[Row],
    metadata: Sequence[Row],
    *,
    where: str,
    partial: bool = False,
    keys: Sequence[str] = (),
) -> Answered:
    """Answers -> base rows by ``dataset_index`` (question and choices must agree) -> metadata rows by id.

    An unread reply becomes the empty text, which every official file takes for a wrong answer. ``keys`` names
    further keys for the prediction; ``response`` gets the option's letter. With ``partial`` rows that find no partner
    are left out and told, otherwise they are refused.

    Raises :class:`UserError` that names the rows: repeated or missing ``dataset_index`` or ids, answers without a
    question, questions without an answer, metadata without a question and the other way round, differing texts.
    """
    pairs = join_by_key(
        base, answers, same={"question": "question", "choices": "choices"}, where=where, partial=partial
    )
    predictions = _by_id(((_base_key(row), answer) for row, answer in pairs), f"{where}: base rows")
    described = _by_id(((_metadata_key(spec, row), row) for row in metadata), f"{where}: metadata rows")
    without_row = [key for key in predictions if key not in described]
    without_answer = [key for key in described if key not in predictions]
    problems = [
        f"{len(found)} {what}: {_ids(found)}"
        for what, found in (
            ("answer(s) whose id the metadata does not have", without_row),
            ("metadata row(s) without an answer", without_answer),
        )
        if found
    ]
    if problems and not partial:
        raise UserError(
            f"{where}: answers and metadata do not belong together. {'; '.join(problems)}. Convert the benchmark and "
            "generate again, or give --partial to write the rows that do."
        )
    joined = [(row, predictions[key]) for key, row in described.items() if key in predictions]
    rows = [_with_prediction(row, answer) for row, answer in joined]
    return Answered(_with_keys(rows, keys), tuple(problems), tuple(answer["dataset_index"] for _, answer in joined))


def _base_key(row: Row) -> tuple[Any, ...]:
    if row.get("id") is None:
        raise UserError(f"the converted set has a row without id (dataset_index {row['dataset_index']})")
    return (str(row["id"]), str(row["question"]), tuple(choice_texts(row["choices"])))


def _metadata_key(spec: Benchmark, row: Row) -> tuple[Any, ...]:
    """Id, question and choices as the converted set has them: ids alone need not be unique in a published file."""
    if spec.row_id(row) is None:
        raise UserError(f"a metadata row has no {spec.id_key!r}; it has {', '.join(row)}")
    try:
        made = spec.convert(row, 0)
    except KeyError as error:
        raise UserError(f"metadata row {spec.row_id(row)} has no {error}; it has {', '.join(row)}") from error
    return (spec.row_id(row), str(made["question"]), tuple(made["choices"]))


def _by_id(pairs: Iterable[tuple[tuple[Any, ...], Row]], where: str) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    repeated = []
    for key, row in pairs:
        if key in found:
            repeated.append(key)
        found[key] = row
    if repeated:
        raise UserError(f"{where} that share one id, question and choices: {_ids(repeated)}")
    return found


def _ids(keys: Sequence[tuple[Any, ...]]) -> str:
    return ", ".join(str(key[0]) for key in keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


def _with_prediction(row: Row, answer: Mapping[str, Any]) -> dict[str, Any]:
    given = answer.get("llm_answer")
    details = {key: answer[key] for key in DETAILS if key in answer}
    return {**row, PREDICTION: "" if given is None else str(given), **details}


def _with_keys(rows: list[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with the prediction under further keys."""
    for key in keys:
        if key == RESPONSE:
            rows = [dict(row) for row in as_replies(rows)]
        else:
            rows = [{**row, key: row[PREDICTION]} for row in rows]
    return rows
