"""Metadata files: JSON lists, JSON lines, and what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RowsFile:
    """Rows of a file, and the numbers (from 1) of the lines that could not be read."""

    rows: Rows
    broken: tuple[int, ...] = ()


def metadata_file(folder: Path, split: str) -> Path:
    """Where a converted benchmark or a run keeps the metadata of a split."""
    return folder / "metadata" / f"{split}_metadata.json"


def read_rows(path: Path) -> RowsFile:
    """Rows of a ``.json`` list or a ``.jsonl`` file, told apart by content. Lines that are no object are passed over.

    Raises :class:`UserError` if the file is missing, empty, or a JSON list that cannot be read or holds no objects.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if text.lstrip()[:1] == "[":
        return RowsFile(_read_list(text, path))
    rows, broken = [], []
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
    return RowsFile(rows, tuple(broken))


def _read_list(text: str, path: Path) -> Rows:
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}; fetch or write it again") from error
    wrong = [number for number, row in enumerate(rows) if not isinstance(row, dict)]
    if wrong or not rows:
        what = f"row {wrong[0]} is no object" if wrong else "the list is empty"
        raise UserError(f"{path}: {what}; expected a list of objects, one for each question")
    return [dict(row) for row in rows]
