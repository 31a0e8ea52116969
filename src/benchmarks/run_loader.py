"""Saved rows of benchmarks and runs: JSON files of metadata, and data sets without decoding or copying audio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError, error_text
from src.common.existing import load_saved
from src.common.retry import load_hub_dataset

JsonRows = list[dict[str, Any]]


@dataclass(frozen=True)
class MetadataFile:
    """Rows of a file, and the numbers (from 1) of the lines that could not be read."""

    rows: JsonRows
    broken: tuple[int, ...] = ()


def metadata_file(folder: Path, split: str) -> Path:
    """Where a converted benchmark or a run keeps the metadata of a split."""
    return folder / "metadata" / f"{split}_metadata.json"


def read_rows(path: Path) -> MetadataFile:
    """Rows of a ``.json`` list or a ``.jsonl`` file, recognised by content. Lines that are no object are passed over.

    Raises :class:`UserError` if the file is missing, empty, or a JSON list that cannot be read or has no objects.
    """
    try:
        # a byte order mark, or bytes of another encoding in one row, must not make the other rows unreadable
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if text.lstrip()[:1] == "[":
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}; fetch or write it again") from error
        wrong = [number for number, row in enumerate(listed) if not isinstance(row, dict)]
        if wrong or not listed:
            what = f"row {wrong[0]} is no object" if wrong else "the list is empty"
            raise UserError(f"{path}: {what}; expected a list of objects, one for each question")
        return MetadataFile(listed)
    rows, broken = [], []
    # mmsu_evaluation.py passes over lines that are not JSON, too. Not splitlines(): JSON texts may contain U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append(number)
    if not rows:
        raise UserError(f"{path} holds no rows; expected a JSON list of objects or one JSON object a line")
    return MetadataFile(rows, tuple(broken))


def open_splits(folder: Path) -> dict[str, Any]:
    """Splits of a saved data set, audio left as stored. Raises :class:`UserError` if there is none."""
    try:
        return _encoded(load_saved(folder))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise UserError(f"no saved data set at {folder}: {error_text(error, 200)}") from error


def open_hub(name: str) -> dict[str, Any]:
    """Splits of a Hub data set, audio left as stored. Raises :class:`UserError` if it cannot be had."""
    try:
        return _encoded(load_hub_dataset(name))
    except UserError:
        raise
    except Exception as error:  # the Hub's client raises many kinds
        raise UserError(f"no data set {name!r} here or on the Hub: {error_text(error, 200)}") from error


def _encoded(saved: Any) -> dict[str, Any]:
    from datasets import Audio, Dataset  # here: files of predictions are scored without it

    splits: Mapping[str, Any] = {"train": saved} if isinstance(saved, Dataset) else saved
    return {
        str(name): data.cast_column("audio", Audio(decode=False))
        if isinstance(data.features.get("audio"), Audio)
        else data
        for name, data in splits.items()
    }


def text_rows(data: Any) -> JsonRows:
    """All columns except the audio, as rows."""
    return data.select_columns([name for name in data.column_names if name != "audio"]).to_list()
