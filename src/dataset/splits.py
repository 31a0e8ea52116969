"""Rows of a split: index files of the corpus, the most specific first, else the corpus's own split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.common.errors import UserError
from src.common.naming import ResponseName
from src.common.paths import data_root, indexes_dir, indexes_filtered_dir


@dataclass(frozen=True)
class SplitIndexes:
    """Keys (``dataset_index``) of one split in ascending order, int64 ``(rows,)``, and the file they came from."""

    keys: np.ndarray
    path: Path


def index_folders(raw_name: str, response: ResponseName) -> list[Path]:
    """Folders that may contain a corpus's split indexes, best first: filtered by answer, by audio, unfiltered."""
    folder = response.format()
    # The published filter writes below the corpus's name, the published reader looks below the model's: both count.
    return [
        indexes_filtered_dir(raw_name) / response.model / folder,
        data_root() / "indexes_filtered" / response.model / folder,
        indexes_filtered_dir(raw_name),
        indexes_dir(raw_name),
    ]


def find_split_indexes(raw_name: str, response: ResponseName, split: str) -> SplitIndexes | None:
    """The split's keys from the first folder that contains an index file; ``None`` if no folder does.

    Raises :class:`UserError` if that folder lacks the file of this ``split`` (rows of another folder would overlap
    with its other splits), or if the file contains anything but distinct whole numbers.
    """
    for folder in index_folders(raw_name, response):
        files = sorted(folder.glob("*_indexes.npy"))
        if not files:
            continue
        path = folder / f"{split}_indexes.npy"
        if path not in files:
            raise UserError(
                f"split {split!r} of {raw_name}: {folder} contains {', '.join(file.name for file in files)} "
                f"but no {path.name}"
            )
        return SplitIndexes(_read_indexes(path), path)
    return None


def _read_indexes(path: Path) -> np.ndarray:
    try:
        keys = np.load(path, allow_pickle=False)  # files come from the Hub, and unpickling runs code
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a numpy index file ({error})") from error
    if keys.ndim != 1 or not (np.issubdtype(keys.dtype, np.integer) or keys.size == 0):
        raise UserError(f"{path}: got {keys.dtype} of shape {keys.shape}, expected whole numbers in one dimension")
    keys = np.sort(keys).astype(np.int64)
    if keys.size > 1 and bool((keys[1:] == keys[:-1]).any()):
        raise UserError(f"{path}: an index occurs more than once")
    return keys


def write_indexes(folder: Path, split: str, keys: np.ndarray) -> None:
    """Write ``{split}_indexes.npy`` atomically, with the keys in the given order."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}_indexes.npy"
    temporary = folder / f".{path.name}.tmp"
    with temporary.open("wb") as file:  # np.save would append .npy to a name
        np.save(file, keys.astype(np.int64), allow_pickle=False)
    temporary.replace(path)


def read_indexes(folder: Path) -> dict[str, np.ndarray]:
    """Ascending keys of every split with an index file in ``folder``; raises :class:`UserError` for a bad file."""
    return {
        path.name.removesuffix("_indexes.npy"): _read_indexes(path) for path in sorted(folder.glob("*_indexes.npy"))
    }


def index_problem(folder: Path, splits: Iterable[str] = ("train", "validation")) -> str | None:
    """Why a folder of index files is not complete; None if it has a readable file for each of ``splits``."""
    try:
        missing = [split for split in splits if split not in read_indexes(folder)]
    except UserError as error:
        return str(error)
    return f"no {missing[0]}_indexes.npy" if missing else None
