"""Finished records to the published folder: one saved ``DatasetDict``, rows in order of ``dataset_index``."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.audio.decode import cell_source
from src.audio.errors import AudioError
from src.common.log import get_logger
from src.dataset.tables import KEY
from src.dataset.writer import move_in
from src.generation.tables import Table
from src.generation.tasks import Task
from src.prompts.options import AnswerFallback

_log = get_logger(__name__)
RECORD_COLUMNS = ("status", "finish_reason", "budget_hit", "num_tokens", "seconds", "error")


def assemble(
    directory: Path,
    tables: Sequence[tuple[Table, str]],
    records: Mapping[str, Mapping[str, Any]],
    task: Task,
    *,
    fallback: AnswerFallback,
    inside_thoughts: bool,
    save_audio: bool,
) -> dict[str, Any]:
    """Write the data set below ``directory`` and return, for each split, the counts of rows by outcome and by
    parse status.

    ``tables`` are splits with the name of their text column; ``records`` hold a record for each of their rows.
    """
    from datasets import DatasetDict

    saved: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for table, text_column in tables:
        rows = sorted(table.positions, key=table.dataset_index)
        lines = [
            _line(table, row, records[table.key(row)], task, text_column, fallback, inside_thoughts) for row in rows
        ]
        saved[table.split] = _split(table, rows, lines, save_audio)
        statuses = Counter(line["parse_status"] for line in lines)
        outcomes = Counter(line["status"] for line in lines)
        counts[table.split] = {
            "rows": len(lines),
            "outcomes": dict(sorted(outcomes.items())),
            "statuses": dict(sorted(statuses.items())),
        }
    _replace(directory, DatasetDict(saved))
    return counts


def _line(
    table: Table,
    row: int,
    record: Mapping[str, Any],
    task: Task,
    text_column: str,
    fallback: AnswerFallback,
    inside_thoughts: bool,
) -> dict[str, Any]:
    cells = table.texts[row]
    columns = task.columns(cells, text_column, record, fallback, inside_thoughts)
    return {KEY: table.dataset_index(row), **columns, **{name: record[name] for name in RECORD_COLUMNS}}


def _split(table: Table, rows: list[int], lines: list[dict[str, Any]], save_audio: bool) -> Any:
    from datasets import Dataset, Features, Value, concatenate_datasets

    made = Dataset.from_list(lines)
    features = dict(made.features)
    for name, feature in features.items():  # a column of nulls alone has no type of its own
        if isinstance(feature, Value) and feature.dtype == "null":
            features[name] = Value("string")
    made = made.cast(Features(features))
    if save_audio and "audio" in table.data.column_names:
        made = concatenate_datasets([made, _audio_of(table, rows)], axis=1)
    return made


def _audio_of(table: Table, rows: list[int]) -> Any:
    """The audio column of some rows.

    ``datasets`` puts the content of every file that a cell names into what it saves: cells that name a file outside
    their data set are emptied, so that it is neither saved nor published.
    """
    from datasets import Audio, Dataset, Features

    cells = table.data.select_columns(["audio"]).select(rows)
    if isinstance(table.data.features["audio"], Audio) and _any_without_bytes(table.data):
        allowed = [_allowed(table.audio(row)) for row in rows]
        lost = sum(cell is None for cell in allowed)
        if lost:
            _log.warning("%s: %d clips are not files of the data set and are not saved with it", table.split, lost)
        cells = Dataset.from_dict({"audio": allowed}, features=Features({"audio": Audio(decode=False)}))
    return cells.cast_column("audio", Audio())


def _any_without_bytes(data: Any) -> bool:
    import pyarrow.compute as pc

    return any(pc.struct_field(chunk, "bytes").null_count for chunk in data.data.column("audio").chunks)


def _allowed(cell: Any) -> dict[str, Any] | None:
    try:
        source, name = cell_source(cell or {})
    except AudioError:
        return None
    if isinstance(source, bytes):
        return {"bytes": source, "path": cell.get("path")}
    return {"bytes": None, "path": str(source)} if source.is_file() else None


def _replace(directory: Path, saved: Any) -> None:
    """Save next to the old files and move the new ones in, so that a kill leaves one or the other."""
    fresh = directory / ".assembling"
    shutil.rmtree(fresh, ignore_errors=True)
    saved.save_to_disk(str(fresh))
    move_in(fresh, directory)
