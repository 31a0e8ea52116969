"""Join saved answers with their questions, by key and never by position, and with a benchmark's metadata, by id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.benchmarks.rules import as_letter_replies
from src.benchmarks.scoring import PREDICTION, RESPONSE, STATUS, Benchmark, BenchmarkRow, first_few
from src.common.errors import UserError
from src.prompts.multiple_choice import choice_texts

KEY = "dataset_index"
DETAILS = (STATUS, "finish_reason", "budget_hit", "error")
"""Columns of an answer that are kept next to the prediction where they were recorded."""


def join_by_key(
    questions: Iterable[BenchmarkRow],
    answers: Iterable[BenchmarkRow],
    *,
    same: Mapping[str, str] | None = None,
    where: str = "answers",
    partial: bool = False,
) -> list[tuple[BenchmarkRow, BenchmarkRow]]:
    """Pairs ``(question, answer)`` of equal ``dataset_index`` in the order of the questions.

    Args:
        questions: rows of the benchmark.
        answers: rows of a run over it, in any order.
        same: question column -> answer column whose values must also be equal where both rows have them, e.g. the
            question's text.
        where: named in messages, e.g. the run's folder.
        partial: allow questions without an answer (a run over the first rows only).

    Raises:
        UserError: for rows without the key, repeated keys, answers to no question, missing answers, or a pair whose
            ``same`` columns differ: such a join would score answers against the wrong questions.
    """
    asked = _by_key(questions, "benchmark")
    given = _by_key(answers, where)
    _refuse([k for k in given if k not in asked], f"{where}: answers without a question in the benchmark")
    if not partial:
        _refuse([k for k in asked if k not in given], f"{where}: questions without an answer")
    pairs = [(row, given[k]) for k, row in asked.items() if k in given]
    for asked_as, saved_as in (same or {}).items():
        # the same options may be a list in one set and a struct in the other
        read: Callable[[Any], Any] = choice_texts if asked_as == "choices" else lambda value: value
        both = [(q, a) for q, a in pairs if asked_as in q and saved_as in a]
        differing = [a[KEY] for q, a in both if read(q[asked_as]) != read(a[saved_as])]
        _refuse(differing, f"{where}: column {saved_as!r} differs from the benchmark's {asked_as!r}")
    return pairs


def _by_key(rows: Iterable[BenchmarkRow], where: str) -> dict[Any, BenchmarkRow]:
    found: dict[Any, BenchmarkRow] = {}
    repeated = []
    for row in rows:
        if KEY not in row:
            raise UserError(
                f"{where}: a row has no {KEY!r}; it has {', '.join(row)}. Rows are joined by that column."
            )
        if row[KEY] in found:
            repeated.append(row[KEY])
        found[row[KEY]] = row
    _refuse(repeated, f"{where}: rows that share one key")
    return found


def _refuse(keys: list[Any], what: str) -> None:
    if keys:
        raise UserError(
            f"{what}: {len(keys)} row(s), {KEY} {first_few(keys)}. The run and the benchmark must come from the same "
            "data; generate the answers again for this benchmark."
        )


@dataclass(frozen=True)
class JoinedRows:
    """Metadata rows with their predictions, in the metadata's order, and what was left out (partial joins only).

    ``indexes`` has each row's ``dataset_index``.
    """

    rows: list[dict[str, Any]]
    left_out: tuple[str, ...] = ()
    indexes: tuple[int, ...] = ()


def join_answers(
    spec: Benchmark,
    base: Iterable[BenchmarkRow],
    answers: Iterable[BenchmarkRow],
    metadata: Sequence[BenchmarkRow],
    *,
    where: str,
    partial: bool = False,
    keys: Sequence[str] = (),
) -> JoinedRows:
    """Answers -> base rows by ``dataset_index`` (question and choices must agree) -> metadata rows by id.

    An unparsed reply becomes the empty text, which every official file takes for a wrong answer. ``keys`` names
    further keys for the prediction; ``response`` gets the option's letter. With ``partial`` rows that find no partner
    are left out and named, otherwise they are refused.

    Raises :class:`UserError` that names the rows: repeated or missing ``dataset_index`` or ids, answers without a
    question, questions without an answer, metadata without a question and the other way round, differing texts.
    """
    pairs = join_by_key(
        base, answers, same={"question": "question", "choices": "choices"}, where=where, partial=partial
    )
    # create_answer_json.py of the published system joins by row position, where one lost row shifts all that follow
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
    rows: list[dict[str, Any]] = []
    indexes = []
    for row_key, row in described.items():
        if answer := predictions.get(row_key):
            given = answer.get("llm_answer")
            details = {column: answer[column] for column in DETAILS if column in answer}
            # the empty text is wrong for every official file; a null ends most of them
            rows.append({**row, PREDICTION: "" if given is None else str(given), **details})
            indexes.append(answer[KEY])
    for key in keys:
        if key == RESPONSE:
            rows = [dict(row) for row in as_letter_replies(rows)]
        else:
            rows = [{**row, key: row[PREDICTION]} for row in rows]
    return JoinedRows(rows, tuple(problems), tuple(indexes))


def _base_key(row: BenchmarkRow) -> tuple[Any, ...]:
    if row.get("id") is None:
        raise UserError(f"the converted set has a row without id (dataset_index {row['dataset_index']})")
    return (str(row["id"]), str(row["question"]), tuple(choice_texts(row["choices"])))


def _metadata_key(spec: Benchmark, row: BenchmarkRow) -> tuple[Any, ...]:
    """Id, question and choices as the converted set has them: ids need not be unique in a published file."""
    if spec.row_id(row) is None:
        raise UserError(f"a metadata row has no {spec.id_key!r}; it has {', '.join(row)}")
    try:
        made = spec.convert(row, 0)
    except KeyError as error:
        raise UserError(f"metadata row {spec.row_id(row)} has no {error}; it has {', '.join(row)}") from error
    return (spec.row_id(row), str(made["question"]), tuple(made["choices"]))


def _by_id(pairs: Iterable[tuple[tuple[Any, ...], BenchmarkRow]], where: str) -> dict[tuple[Any, ...], BenchmarkRow]:
    found: dict[tuple[Any, ...], BenchmarkRow] = {}
    repeated = []
    for key, row in pairs:
        if key in found:
            repeated.append(key)
        found[key] = row
    if repeated:
        raise UserError(f"{where} that share one id, question and choices: {_ids(repeated)}")
    return found


def _ids(keys: Sequence[tuple[Any, ...]]) -> str:
    return first_few([key[0] for key in keys])
