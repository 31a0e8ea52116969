"""Files of imitations: audio of a given length, texts, tables, saved rows."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


@functools.cache
def audio(seconds: float, rate: int = 16000, channels: int = 1, kind: str = "WAV", level: float = 0.1) -> bytes:
    """An audio file with a tone of ``level``."""
    tone = level * np.sin(np.arange(round(seconds * rate)) * (2 * np.pi * 220 / rate))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.repeat(tone[:, None], channels, axis=1), rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def put(path: Path, content: str | bytes) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_table(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    """Write rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    put(path, text.getvalue())


def put_rows(folder: Path, column: str = "audio", **splits: Sequence[Mapping[str, Any]]) -> None:
    """Save rows as a data set; cells of ``column`` are encoded audio."""
    from datasets import Audio, Dataset, DatasetDict

    made = {}
    for split, rows in splits.items():
        cells = [dict(row) for row in rows]
        for number, row in enumerate(cells):
            if column in row:
                row[column] = {"bytes": row[column], "path": f"{split}_{number}.wav"}
        rows_of_split = Dataset.from_list(cells)
        made[split] = rows_of_split.cast_column(column, Audio()) if column in cells[0] else rows_of_split
    DatasetDict(made).save_to_disk(str(folder))
