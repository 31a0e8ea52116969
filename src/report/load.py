"""Read what a report needs from disk: saved data sets as plain rows, training curves, marks of stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from src.audio.roots import roots_of, stored_cell
from src.common.errors import UserError
from src.common.json_lines import read_json_lines

Rows = list[dict[str, Any]]


def read_splits(path: str | Path) -> dict[str, Rows]:
    """Rows of every split of a saved data set; audio stays encoded (``{"bytes", "path"}``).

    Raises :class:`UserError` if the folder holds no data set.
    """
    from datasets import Audio, Dataset, DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"no saved data set at {path}: {error}. Run the stage that makes it, or fix the path."
        ) from error
    splits = {"train": saved} if isinstance(saved, Dataset) else saved
    assert isinstance(splits, (dict, DatasetDict))
    rows: dict[str, Rows] = {}
    for name, data in splits.items():
        for column, feature in data.features.items():
            if isinstance(feature, Audio):
                data = data.cast_column(column, Audio(decode=False))
        roots, encoded = roots_of(data), [column for column, kind in data.features.items() if isinstance(kind, Audio)]
        rows[str(name)] = [
            {**row, **{column: stored_cell(row[column], roots) for column in encoded}} for row in data.to_list()
        ]
    return rows


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is missing or cannot be used."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file, nothing if there is none; a broken last line is left out."""
    return list(read_json_lines(path, skip_broken=True))


def read_marks(folder: str | Path | None) -> list[dict[str, Any]]:
    """Marks of a job's stages in the job's order, those that are done."""
    if folder is None:
        return []
    marks = [mark for file in sorted(Path(folder).glob("*.json")) if (mark := read_json(file)) and mark.get("done")]
    return sorted(marks, key=lambda mark: (mark.get("place", 0), mark.get("name", "")))
