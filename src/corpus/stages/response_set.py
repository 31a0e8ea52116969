"""Write one response set: a saved ``DatasetDict``, streamed from the rows, with its run record and statistics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from src.common.existing import LISTING
from src.common.run_record import write_run_record
from src.corpus.stages.response_job import Row
from src.corpus.stages.saved_set import Entry, write_splits
from src.prompts.betrayal import betrays
from src.prompts.texts import Prompts
from src.prompts.thoughts import split_response

RowT = TypeVar("RowT")
RowIn = TypeVar("RowIn", contravariant=True)


class Statistics(Protocol[RowIn]):
    """Counts over the rows of a set while they pass."""

    def add(self, row: RowIn) -> None:
        """Count one row."""

    def result(self) -> dict[str, Any]:
        """The counts, as they are kept in ``run.json``."""


@dataclass(frozen=True)
class SetLayout(Generic[RowT]):
    """Columns of a response set with their types (``str`` or ``int``), and a row's values of them."""

    columns: Mapping[str, type]
    entry: Callable[[RowT], Entry]


class ResponseStatistics:
    """Counts over the rows of a set while they pass."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._status: Counter[str] = Counter()
        self._betraying: Counter[str] = Counter()
        self._cut = self._tokens = self._unfinished = 0

    def add(self, row: Row) -> None:
        """Count one row; lengths and betraying words only of sound rows."""
        self._status[row.status] += 1
        if row.status != "ok":
            return
        parts = split_response(row.text)
        self._tokens += row.num_tokens
        self._cut += row.finish_reason == "length"
        self._unfinished += parts.status == "unfinished_thoughts"
        for name, text in (("response", row.text), ("thoughts", parts.thoughts), ("answer", parts.answer)):
            self._betraying[name] += betrays(text, self._prompts)

    def result(self) -> dict[str, Any]:
        """``rows``, ``ok``, ``failed`` by status, ``cut`` responses, mean tokens, betraying responses and share.

        ``betraying`` counts sound rows whose whole response, thoughts or answer hold a betraying phrase, and
        ``betraying_share`` is their part of the sound rows.
        """
        ok = self._status["ok"]
        names = ("response", "thoughts", "answer")
        return {
            "rows": self._status.total(),
            "ok": ok,
            "failed": {status: count for status, count in sorted(self._status.items()) if status != "ok"},
            "cut": self._cut,
            "unfinished_thoughts": self._unfinished,
            "mean_tokens": round(self._tokens / ok, 2) if ok else 0.0,
            "betraying": {name: self._betraying[name] for name in names},
            "betraying_share": {name: round(self._betraying[name] / ok, 4) if ok else 0.0 for name in names},
        }


def write_response_set(
    folder: Path,
    splits: Mapping[str, Iterable[RowT]],
    layout: SetLayout[RowT],
    statistics: Statistics[RowT],
    config: Mapping[str, Any],
    **record: Any,
) -> dict[str, Any]:
    """Write the rows of all ``splits`` below ``folder`` and ``run.json`` beside them; returns the statistics.

    Rows stream through: memory does not grow with them. A set that was there is replaced when the new one is
    complete. ``record`` goes into ``run.json`` beside ``config``.
    """

    def entries(rows: Iterable[RowT]) -> Iterator[Entry]:
        for row in rows:
            statistics.add(row)
            yield layout.entry(row)

    write_splits(folder, {split: entries(rows) for split, rows in splits.items()}, layout.columns)
    result = statistics.result()
    write_run_record(folder, config, **record, result=result)
    return result


def stored_result(folder: Path, config: Mapping[str, Any], **record: Any) -> dict[str, Any] | None:
    """Statistics of the set in ``folder`` if it is complete and was made with this configuration, else None."""
    record_path = folder / "run.json"
    if not record_path.is_file() or not (folder / LISTING).is_file():
        return None
    written: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps({"config": config, **record}))
    return written.get("result") if all(written.get(key) == value for key, value in wanted.items()) else None


def _entry(row: Row) -> Entry:
    return {
        "dataset_index": row.dataset_index,
        "audio_description": row.texts[0],
        "prompt": row.texts[1],
        "llm_answer_with_context": row.text,
        "llm_answer_no_context": "",
        "status": row.status,
        "num_tokens": row.num_tokens,
        "finish_reason": row.finish_reason,
        "attempts": row.attempts,
    }


RESPONSES: SetLayout[Row] = SetLayout(
    {
        "dataset_index": int,
        "audio_description": str,
        "prompt": str,
        "llm_answer_with_context": str,
        "llm_answer_no_context": str,
        "status": str,
        "num_tokens": int,
        "finish_reason": str,
        "attempts": int,
    },
    _entry,
)
"""The published columns (``llm_answer_no_context`` is empty for audio corpora), and how the response came about.

``finish_reason`` is that of the generation: ``length`` for a cut response.
"""
PUBLISHED_COLUMNS = 5
"""The first columns, which are the published ones."""
