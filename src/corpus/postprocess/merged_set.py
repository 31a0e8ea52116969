"""The released corpus with audio: its rows and columns as they are, and the clips that were collected here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.existing import next_step, set_problem
from src.common.lock import locked_folders, may_discard
from src.common.log import get_logger
from src.common.paths import merged_dir, raw_dir
from src.common.run_record import write_run_record
from src.corpus.postprocess.audio_filter import undecoded
from src.corpus.postprocess.merge import RAW_SPLITS, SPLITS, Published, join_ids
from src.dataset.corpus_names import INSTRUCTION, group_of
from src.dataset.tables import native_splits, open_split
from src.dataset.writer import write_set

_log = get_logger(__name__)
RESERVED = (
    "raw", "raw_with_prompts", "responses", "indexes", "indexes_filtered", "generated", "transcripts", "downloads",
)  # fmt: skip
"""Folders of the data layout (:mod:`src.common.paths`), next to which the set is written."""
_BATCH = 100


@dataclass(frozen=True)
class _Split:
    """The ``rows`` of one released split whose audio is here, in their order, and their ``audio``; None without any.

    ``released`` is the number of rows that were looked for.
    """

    rows: Any
    audio: Any
    released: int

    @property
    def features(self) -> Any:
        """The released columns, and the audio."""
        from datasets import Audio, Features

        return Features({**self.rows.features, "audio": Audio(sampling_rate=16000)})

    def tables(self) -> Iterator[Any]:
        """Arrow tables of a few rows each."""
        for start in range(0, len(self.rows), _BATCH):
            rows, audio = (view.with_format("arrow")[start : start + _BATCH] for view in (self.rows, self.audio))
            yield rows.append_column("audio", audio.column("audio"))


def merge_to_one_set(
    save_name: str, published: Published, filtered: bool, names: Sequence[str] = (), overwrite: bool = False
) -> dict[str, dict[str, int]]:
    """Write ``data/datasets/SAVE_NAME``: splits ``train`` and ``validation`` of the released rows, with ``audio``.

    The rows are those of the released ``raw_train`` and ``raw_validation``, or with ``filtered`` of ``train`` and
    ``validation``, in their order; those whose clip is not collected here are left out and counted. ``names`` are the
    corpora, without names all. A set that is complete is skipped. Returns counts by split: ``released``, ``written``,
    ``not_here``.

    Raises :class:`UserError` if the release lacks the splits, no clip is here, or another folder has this name.
    """
    if save_name in RESERVED or save_name != save_name.strip("./") or "/" in save_name:
        raise UserError(
            f"--save-name {save_name!r}: this is a folder of the data layout, or no folder name; choose another"
        )
    wanted = SPLITS if filtered else RAW_SPLITS
    missing = [split for split in wanted if split not in published.all]
    if missing:
        other = "leave --merge-filtered out" if filtered else "pass --merge-filtered"
        raise UserError(f"the released corpus has no split {missing[0]} but {', '.join(published.all)}; {other}")
    splits = {split.removeprefix("raw_"): _locate(published, split, names) for split in wanted}
    counts = {
        split: {"released": each.released, "written": len(each.rows), "not_here": each.released - len(each.rows)}
        for split, each in splits.items()
    }
    if not any(each["written"] for each in counts.values()):
        raise UserError(
            f"no clip of the released rows is in {raw_dir('NAME').parent}; see scripts/alarm/collect.py --list"
        )
    folder = merged_dir(save_name)
    least = {split: each["written"] for split, each in counts.items()}
    with locked_folders([folder]) as changed:
        overwrite = may_discard(overwrite, changed, folder)
        problem = set_problem(folder, list(next(iter(splits.values())).features), rows=least)
        what, other = f"merged set {save_name}", "--save-name another"
        if next_step(what, folder, problem, overwrite=overwrite, other_name=other) != "skip":
            write_set(folder, {split: (each.features, each.tables()) for split, each in splits.items()})
            config = {"save_name": save_name, "filtered": filtered, "corpora": list(names)}
            write_run_record(folder, config, result=counts)
    return counts


def _locate(published: Published, split: str, names: Sequence[str]) -> _Split:
    """Find the audio of every row of a released split."""
    from datasets import concatenate_datasets

    rows = published.all[split]
    place = np.full(len(rows), -1)  # in all audio that was collected, one corpus after the other
    collected: list[Any] = []
    asked = [np.zeros(0, np.int64)]
    for name in published.names:
        places = published.rows(name, split)
        if not places.size or (names and name not in names):
            continue
        asked.append(places)
        stored = split.removeprefix("raw_") if group_of(name) == INSTRUCTION else "train"
        if not raw_dir(name).is_dir() or stored not in native_splits(raw_dir(name)):
            _log.warning("%s: not collected here; its %d rows of %s are left out", name, places.size, split)
            continue
        raw = open_split(raw_dir(name), stored, f"raw set {name}")
        here, there = join_ids(name, raw, rows, places)
        if there.size < places.size:
            _log.warning("%s: %d of %d rows of %s are not here", name, places.size - there.size, places.size, split)
        place[there] = sum(map(len, collected)) + here
        # sets can be joined if their audio has the same feature; the bytes stay as they are
        collected.append(undecoded(raw.select_columns(["audio"])))
    kept = np.flatnonzero(place >= 0)
    audio = concatenate_datasets(collected).select(place[kept]) if collected else None
    return _Split(rows.select(kept), audio, np.concatenate(asked).size if names else len(rows))
