"""Checks that raw set, prompts and responses of a corpus have the same rows in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.naming import ResponseName
from src.common.paths import prompts_dir, raw_dir, responses_dir
from src.corpus.targets.llm_settings import dropped_keys
from src.dataset.tables import check_same_text, find_rows, first_of, native_splits, open_keyed, open_split, read_keys

TEXTS = ("audio_description", "question", "context")


def existing(response_folders: list[str]) -> list[str]:
    """The response folders that exist, each once."""
    return [folder for folder in dict.fromkeys(response_folders) if _path(folder).is_dir()]


def _path(response_folder: str) -> Path:
    return responses_dir(ResponseName.parse(response_folder).model, response_folder)


def check_order(raw_name: str, response_folders: list[str]) -> list[str]:
    """Problems of a corpus's sets, empty if there are none.

    Every row of prompts and responses is compared with the raw set's row of the same key (descriptions, questions,
    contexts); rows that are missing, unknown or in another order are named by their keys.
    """
    problems: list[str] = []
    others = [(f"prompts of {raw_name}", prompts_dir(raw_name))] if prompts_dir(raw_name).is_dir() else []
    others += [(f"responses {folder}", _path(folder)) for folder in response_folders]
    for split in native_splits(raw_dir(raw_name)):
        raw, keys = open_keyed(raw_dir(raw_name), split, f"raw set {raw_name}")
        if not np.array_equal(keys, np.sort(keys)):
            problems.append(f"raw set {raw_name}, {split}: rows are not in the order of their keys")
        # rows that got no prompt are no fault of the sets made from the prompts
        excused = np.array(dropped_keys(raw_name, split), dtype=np.int64)
        for what, folder in others:
            if split not in native_splits(folder):
                problems.append(f"{what}: lacks the split {split} of the raw set, {len(keys)} rows")
            else:
                problems += _compare(
                    raw, keys, open_split(folder, split, what), f"{what}, {split}", raw_name, excused
                )
    return problems


def _compare(raw: Any, raw_keys: np.ndarray, other: Any, what: str, raw_name: str, excused: np.ndarray) -> list[str]:
    keys = read_keys(other, what)
    rows = find_rows(raw_keys, keys)
    problems = []
    if (rows < 0).any():
        problems.append(f"{what}: {(rows < 0).sum()} rows that the raw set lacks: {first_of(keys[rows < 0])}")
    missing = np.setdiff1d(raw_keys[find_rows(keys, raw_keys) < 0], excused)
    if missing.size:
        problems.append(f"{what}: lacks {missing.size} rows of the raw set: {first_of(missing)}")
    if not np.array_equal(keys, np.sort(keys)):
        problems.append(f"{what}: rows are not in the order of their keys")
    known = np.flatnonzero(rows >= 0)
    for column in TEXTS:
        try:
            check_same_text(raw, rows[known], other, known, column, f"raw set {raw_name} and {what}")
        except UserError as error:
            problems.append(str(error))
    return problems
