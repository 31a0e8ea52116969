"""Write one response set: a saved ``DatasetDict``, streamed from the rows, with its run record and statistics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.common.run_record import write_run_record
from src.corpus.stages.response_job import Row
from src.corpus.stages.saved_set import LISTING, write_splits
from src.prompts.betrayal import betrays
from src.prompts.texts import Prompts
from src.prompts.thoughts import split_response

COLUMNS = {
    "dataset_index": int,
    "audio_description": str,
    "prompt": str,
    "llm_answer_with_context": str,
    "llm_answer_no_context": str,
    "status": str,
    "num_tokens": int,
    "finish_reason": str,
    "attempts": int,
}


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
    splits: Mapping[str, Iterable[Row]],
    prompts: Prompts,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the rows of all ``splits`` below ``folder`` and ``run.json`` beside them; returns the statistics.

    Columns: the published ones (``dataset_index``, ``audio_description``, ``prompt``, ``llm_answer_with_context``,
    ``llm_answer_no_context``, empty for audio corpora) and ``status``, ``num_tokens``, ``finish_reason`` (of the
    generation: ``length`` for a cut response) and ``attempts``. Rows stream through: memory does not grow with them.
    A set that was there is replaced when the new one is complete.
    """
    statistics = ResponseStatistics(prompts)

    def entries(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        for row in rows:
            statistics.add(row)
            yield _entry(row)

    write_splits(folder, {split: entries(rows) for split, rows in splits.items()}, COLUMNS)
    result = statistics.result()
    write_run_record(folder, config, prompts_digest=prompts.digest(), result=result)
    return result


def stored_result(folder: Path, config: Mapping[str, Any], prompts: Prompts) -> dict[str, Any] | None:
    """Statistics of the set in ``folder`` if it is complete and was made with this configuration, else None."""
    record_path = folder / "run.json"
    if not record_path.is_file() or not (folder / LISTING).is_file():
        return None
    record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
    same = record.get("config") == json.loads(json.dumps(config)) and record.get("prompts_digest") == prompts.digest()
    return record.get("result") if same else None


def _entry(row: Row) -> dict[str, Any]:
    return {
        "dataset_index": row.dataset_index,
        "audio_description": row.description,
        "prompt": row.prompt,
        "llm_answer_with_context": row.text,
        "llm_answer_no_context": "",
        "status": row.status,
        "num_tokens": row.num_tokens,
        "finish_reason": row.finish_reason,
        "attempts": row.attempts,
    }
