"""A corpus's training and validation rows, drawn as for the published corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.common.errors import UserError
from src.common.existing import next_step
from src.common.lock import locked_folders, may_discard
from src.common.paths import indexes_dir, raw_dir
from src.dataset.splits import index_problem, read_indexes, write_indexes
from src.dataset.tables import open_keyed


@dataclass(frozen=True)
class SplitSettings:
    """Share of the validation rows and the seed, which is the same for every corpus."""

    validation: float = 0.1
    seed: int = 123

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UserError(f"a validation share of {self.validation}: expected 0 <= share < 1")


def draw_split(keys: np.ndarray, settings: SplitSettings) -> dict[str, np.ndarray]:
    """``validation``, the first ``int(n * share)`` of a permutation of ``keys``, and ``train``, the rest of it."""
    # the legacy generator, whose stream never changes (https://numpy.org/neps/nep-0019-rng-policy.html), is what drew
    # the published split
    order = np.random.RandomState(settings.seed).permutation(keys.size)
    cut = int(keys.size * settings.validation)
    return {"train": keys[order[cut:]], "validation": keys[order[:cut]]}


def create_split(name: str, settings: SplitSettings, overwrite: bool = False) -> dict[str, int]:
    """Write ``indexes/NAME/{train,validation}_indexes.npy``; returns the rows of each.

    A split that is there is kept unless ``overwrite``. Raises :class:`UserError` if it is of other rows than the set,
    or lacks a file.
    """
    _, keys = open_keyed(raw_dir(name), "train", f"raw set {name}")
    folder = indexes_dir(name)
    with locked_folders([folder]) as changed:
        overwrite = may_discard(overwrite, changed, folder)
        if next_step(f"split of {name}", folder, _problem(folder, keys), ours=False, overwrite=overwrite) == "skip":
            return {split: int(part.size) for split, part in read_indexes(folder).items()}
        split = draw_split(keys, settings)
        for part, chosen in split.items():
            write_indexes(folder, part, chosen)
        return {part: int(chosen.size) for part, chosen in split.items()}


def _problem(folder: Path, keys: np.ndarray) -> str | None:
    """Why the indexes in ``folder`` do not split the rows ``keys`` of the set; None if they do."""
    problem = index_problem(folder)
    if problem:
        return problem
    found = np.sort(np.concatenate(list(read_indexes(folder).values())))
    return None if np.array_equal(found, np.sort(keys)) else f"splits other rows than the {keys.size} of the raw set"
