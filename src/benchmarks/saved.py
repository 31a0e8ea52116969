"""Saved data sets as plain rows, without decoding or copying any audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.common.errors import UserError

Rows = list[dict[str, Any]]


def open_splits(folder: Path) -> dict[str, Any]:
    """Splits of a saved data set, audio left as stored. Raises :class:`UserError` if there is none."""
    from datasets import load_from_disk

    try:
        return _encoded(load_from_disk(str(folder)))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise UserError(f"no saved data set at {folder}: {' '.join(str(error).split())[:200]}") from error


def open_hub(name: str) -> dict[str, Any]:
    """Splits of a Hub data set, audio left as stored. Raises :class:`UserError` if it cannot be had."""
    from datasets import load_dataset

    try:
        return _encoded(load_dataset(name))
    except Exception as error:  # the Hub's client raises many kinds
        raise UserError(f"no data set {name!r} here or on the Hub: {' '.join(str(error).split())[:200]}") from error


def _encoded(saved: Any) -> dict[str, Any]:
    from datasets import Audio, Dataset

    splits: Mapping[str, Any] = {"train": saved} if isinstance(saved, Dataset) else saved
    return {
        str(name): data.cast_column("audio", Audio(decode=False)) if _has_audio(data, Audio) else data
        for name, data in splits.items()
    }


def _has_audio(data: Any, kind: type) -> bool:
    return "audio" in data.column_names and isinstance(data.features["audio"], kind)


def text_rows(data: Any) -> Rows:
    """All columns but the audio as rows."""
    rows: Rows = data.select_columns([name for name in data.column_names if name != "audio"]).to_list()
    return rows
