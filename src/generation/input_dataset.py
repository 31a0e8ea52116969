"""Opens the data set of a run: its splits, the chosen rows, and the column with the text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.roots import roots_of, stored_cell
from src.common.errors import UserError, error_text
from src.common.existing import load_saved
from src.common.paths import indexes_dir, indexes_filtered_dir, prompts_dir, raw_dir
from src.common.retry import load_hub_dataset
from src.dataset.tables import KEY, join_rows, open_split, read_keys
from src.generation.config import DatasetConfig

TEXT_COLUMNS = ("prompt", "content", "context")
RowRef = tuple[str, int]
"""A row of a run: split and position in it."""


def row_key(row: RowRef) -> str:
    """Key of a row in the row log."""
    return f"{row[0]}/{row[1]}"


@dataclass(frozen=True, eq=False)
class Table:
    """One split: its data set (audio undecoded), the positions of the chosen rows, and the column of their texts."""

    split: str
    data: Any
    positions: tuple[int, ...]
    text_column: str = "question"

    @property
    def rows(self) -> list[RowRef]:
        """The chosen rows."""
        return [(self.split, position) for position in self.positions]

    @cached_property
    def texts(self) -> Any:
        """All columns but the audio, whose bytes need not be read for them."""
        return self.data.select_columns([name for name in self.data.column_names if name != "audio"])

    def audio(self, position: int) -> Any:
        """The row's audio cell, undecoded; a path in it is followed inside the data set only."""
        return stored_cell(self._audio[position]["audio"], self._roots)

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        return roots_of(self.data)

    @cached_property
    def _audio(self) -> Any:
        return self.data.select_columns(["audio"])

    def dataset_index(self, position: int) -> int:
        """The row's ``dataset_index``; its position in sets without one."""
        return int(self.texts[position][KEY]) if KEY in self.data.column_names else position


def open_tables(config: DatasetConfig, seed: int) -> list[Table]:
    """The splits that ``config`` asks for. Raises :class:`UserError` for a set or split that is not there."""
    from datasets import Audio

    splits = _native_splits(config.name)
    if config.split is None:
        chosen = splits
    elif config.split in splits:
        chosen = {config.split: splits[config.split]}
    else:
        chosen = {config.split: _indexed_split(config.name, config.split, splits)}
    tables = []
    for split, data in chosen.items():
        if "audio" in data.column_names and isinstance(data.features["audio"], Audio):
            # stored bytes or path, decoded row by row later: a bad file costs one row
            data = data.cast_column("audio", Audio(decode=False))
        positions = list(range(len(data)))
        if config.shuffle:  # as datasets.Dataset.shuffle draws: a seed gives the rows of the published program
            positions = np.random.default_rng(seed).permutation(len(data)).tolist()
        tables.append(Table(split, data, tuple(positions[: config.limit])))
    return tables


def _native_splits(name: str) -> dict[str, Any]:
    from datasets import Dataset, DatasetDict

    folder = next((path for path in (raw_dir(name), Path(name)) if path.is_dir()), None)
    if folder is None and (name.count("/") != 1 or name.startswith((".", "~", "/"))):
        raise UserError(f"dataset.name={name}: no folder {raw_dir(name)}, and a Hub id reads OWNER/NAME")
    try:
        loaded = load_saved(folder) if folder else load_hub_dataset(name)
    except UserError:
        raise
    except Exception as error:  # of datasets, huggingface_hub or pyarrow, of many types
        where = str(folder) if folder else f"no folder {raw_dir(name)}, and not on the Hub"
        reason = error_text(error, 200)
        raise UserError(f"dataset.name={name}: cannot be opened ({where}: {reason})") from error
    if isinstance(loaded, Dataset):
        return {"train": loaded}
    if not isinstance(loaded, DatasetDict) or not loaded:
        raise UserError(f"dataset.name={name}: holds no splits")
    return {str(split): data for split, data in loaded.items()}


def _indexed_split(name: str, split: str, splits: dict[str, Any]) -> Any:
    """Rows of the ``train`` split that an index file of the corpus names."""
    files = [folder / f"{split}_indexes.npy" for folder in (indexes_filtered_dir(name), indexes_dir(name))]
    path = next((file for file in files if file.is_file()), None)
    if path is None or "train" not in splits:
        raise UserError(
            f"dataset.split={split}: {name} has the splits {', '.join(splits)}, and there is no {files[1]}"
        )
    data = splits["train"]
    wanted = np.sort(np.load(path, allow_pickle=False))  # pickles of others are never loaded
    if KEY not in data.column_names:  # the indexes then are positions
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < len(data):
            raise UserError(f"{path} names rows up to {wanted[-1]}, but {name} has {len(data)} rows and no {KEY}")
        return data.select(wanted)
    return data.select(join_rows(read_keys(data, name), wanted, name, str(path)))


def with_texts(table: Table, name: str) -> Table:
    """The table with its text column; a local set without one gets the prompts that were made for it."""
    for column in TEXT_COLUMNS:
        if column in table.data.column_names:
            return replace(table, text_column=column)
    folder = prompts_dir(name)
    if not folder.is_dir():
        raise UserError(
            f"{name} has no text column ({', '.join(TEXT_COLUMNS)}) but {', '.join(table.data.column_names)}, "
            f"and there are no prompts in {folder}"
        )
    made = open_split(folder, "train", f"prompts of {name}")
    rows = join_rows(read_keys(made, str(folder)), read_keys(table.data, name), str(folder), name)
    texts = made.select_columns(["prompt"]).select(rows)["prompt"]
    return replace(table, data=table.data.add_column("prompt", list(texts)), text_column="prompt")


def need_columns(table: Table, columns: Sequence[str], name: str, why: str) -> None:
    """Raise :class:`UserError` naming the columns that are missing."""
    missing = [column for column in columns if column not in table.data.column_names]
    if missing:
        raise UserError(
            f"{name} ({table.split}) has no column {', '.join(missing)}, needed for {why}; it has "
            f"{', '.join(table.data.column_names)}"
        )


def mismatched_rows(table: Table, seed: int) -> list[int]:
    """For every row of the split, another row whose clip differs: a seeded derangement.

    Rows count as the same clip if they share ``audio_description`` and unique ids. Raises :class:`UserError` if all
    rows are one clip.
    """
    count = len(table.data)  # all rows, chosen or not: a row keeps its mismatched clip under another `limit`
    columns = [
        name for name in ("unique_id_1", "unique_id_2", "audio_description") if name in table.data.column_names
    ]
    clips = list(zip(*(table.data[name] for name in columns), strict=True)) if columns else list(range(count))
    order = list(range(count))
    random.Random(seed).shuffle(order)
    others = [-1] * count
    for place, row in enumerate(order):
        candidates = (order[(place + step) % count] for step in range(1, count))
        others[row] = next((other for other in candidates if clips[other] != clips[row]), -1)
    if -1 in others:
        raise UserError(f"audio_input=other: {table.split} holds {count} row(s) of one clip; there is no other")
    return others
