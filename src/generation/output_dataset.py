"""Writes the answers of a run as a saved ``DatasetDict``, rows in order of ``dataset_index``."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from src.audio.decode import cell_source
from src.audio.errors import AudioError
from src.common.log import get_logger
from src.dataset.tables import KEY
from src.dataset.writer import move_in
from src.generation.input_dataset import Table, row_key
from src.generation.job import Job

_log = get_logger(__name__)
RECORD_COLUMNS = ("status", "finish_reason", "budget_hit", "num_tokens", "seconds", "error")


def write_answers(job: Job, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Save the answers of a job; returns, for each split, the counts of rows by status and parse status.

    ``records`` have a record for each row. The effects of an augmenter are saved as JSON in the column
    ``augmentation``.
    """
    from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

    saved: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    how = (job.config.answer_fallback, job.reasoning, job.prompts.answer_style)
    for table in job.tables:
        positions = sorted(table.positions, key=table.dataset_index)  # also of a shuffled run
        rows: list[dict[str, Any]] = []
        for position in positions:
            key = row_key((table.split, position))
            record = records[key]
            columns = job.task.columns(table.texts[position], table.text_column, record, *how)
            kept = {name: record[name] for name in RECORD_COLUMNS}
            if job.augmenter is not None:
                kept["augmentation"] = json.dumps(job.augmenter.draw(key))
            rows.append({KEY: table.dataset_index(position), **columns, **kept})
        split = Dataset.from_list(rows)
        features = dict(split.features)
        for name, feature in features.items():  # a column that is null in all rows has no type of its own
            if isinstance(feature, Value) and feature.dtype == "null":
                features[name] = Value("string")
        split = split.cast(Features(features))
        if job.config.save_audio and "audio" in table.data.column_names:
            split = concatenate_datasets([split, _audio_of(table, positions)], axis=1)
        saved[table.split] = split
        counts[table.split] = {
            "rows": len(rows),
            "outcomes": dict(sorted(Counter(row["status"] for row in rows).items())),
            "statuses": dict(sorted(Counter(row["parse_status"] for row in rows).items())),
        }
    # saved next to the old files and moved in: a killed process leaves the old set or the new one
    fresh = job.directory / ".assembling"
    shutil.rmtree(fresh, ignore_errors=True)
    DatasetDict(saved).save_to_disk(str(fresh))
    move_in(fresh, job.directory)
    return counts


def _audio_of(table: Table, rows: list[int]) -> Any:
    """The audio column of some rows.

    ``datasets`` puts the content of every file that a cell names into what it saves: cells that name a file outside
    their data set are emptied, so that it is neither saved nor published.
    """
    import pyarrow.compute as pc
    from datasets import Audio, Dataset, Features

    cells = table.data.select_columns(["audio"]).select(rows)
    chunks = table.data.data.column("audio").chunks
    encoded = isinstance(table.data.features["audio"], Audio)
    if encoded and any(pc.struct_field(chunk, "bytes").null_count for chunk in chunks):
        allowed = [_allowed(table.audio(row)) for row in rows]
        lost = sum(cell is None for cell in allowed)
        if lost:
            _log.warning("%s: %d clips are not files of the data set and are not saved with it", table.split, lost)
        cells = Dataset.from_dict({"audio": allowed}, features=Features({"audio": Audio(decode=False)}))
    return cells.cast_column("audio", Audio())


def _allowed(cell: Any) -> dict[str, Any] | None:
    """The cell, or ``None`` if it names a file that must not be saved."""
    try:
        source, name = cell_source(cell or {})
    except AudioError:
        return None
    if isinstance(source, bytes):
        return {"bytes": source, "path": cell.get("path")}
    return {"bytes": None, "path": str(source)} if source.is_file() else None
