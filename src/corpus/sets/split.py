"""A corpus's training and validation rows, drawn as for the published corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import indexes_dir, raw_dir
from src.dataset.splits import read_indexes, write_indexes
from src.dataset.tables import open_split, read_keys

_log = get_logger(__name__)


@dataclass(frozen=True)
class SplitSettings:
    """Share of the validation rows and the seed, which every corpus starts from anew."""

    validation: float = 0.1
    seed: int = 123

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"a validation share of {self.validation}: expected 0 <= share < 1")


def draw_split(keys: np.ndarray, settings: SplitSettings) -> dict[str, np.ndarray]:
    """``validation``, the first ``int(n * share)`` of a permutation of ``keys``, and ``train``, the rest of it."""
    order = np.random.RandomState(settings.seed).permutation(keys.size)
    cut = int(keys.size * settings.validation)
    return {"train": keys[order[cut:]], "validation": keys[order[:cut]]}


def create_split(name: str, settings: SplitSettings, overwrite: bool = False) -> dict[str, int]:
    """Write ``indexes/NAME/{train,validation}_indexes.npy``; returns the rows of each.

    A split that is there is kept unless ``overwrite``. Raises :class:`UserError` if it is of other rows than the set.
    """
    keys = read_keys(open_split(raw_dir(name), "train", f"raw set {name}"), f"raw set {name}")
    there = read_indexes(indexes_dir(name))
    if there and not overwrite:
        found = np.sort(np.concatenate(list(there.values())))
        if not np.array_equal(found, np.sort(keys)):
            raise UserError(
                f"{indexes_dir(name)} splits other rows than {raw_dir(name)} holds; --overwrite draws anew"
            )
        _log.info("%s is split already", name)
        return {split: int(part.size) for split, part in there.items()}
    split = draw_split(keys, settings)
    for part, chosen in split.items():
        write_indexes(indexes_dir(name), part, chosen)
    return {part: int(chosen.size) for part, chosen in split.items()}
