"""Writes saved data sets from Arrow tables; a killed process leaves the old set or the new one."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.common.existing import LISTING
from src.common.files import recover, swap_in, write_json
from src.dataset.tables import join_rows, open_keyed

SHARD_BYTES = 500 * 2**20  # about where save_to_disk cuts, so that both kinds of sets look alike
_TEXT_BATCH, _AUDIO_BATCH = 1000, 200  # rows in memory at once: one with audio has some hundred kilobytes


def move_in(fresh: Path, folder: Path) -> None:
    """Move the saved ``DatasetDict`` ``fresh`` into ``folder``, which keeps its other files (records, a lock).

    Every split is exchanged atomically and the listing comes last: a killed process leaves each listed split
    complete, the old one or the new one. ``fresh`` is removed.
    """
    for split in sorted(path for path in fresh.iterdir() if path.is_dir()):
        swap_in(split, folder / split.name)
    (fresh / LISTING).replace(folder / LISTING)
    shutil.rmtree(fresh)


def describe_split(features: Any, folder: Path, names: list[str], fingerprint: str) -> None:
    """Make Arrow files in ``folder`` a saved data set: write what ``save_to_disk`` writes next to them."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    # save_to_disk would copy all rows. That of an empty set with these features writes the two JSON files in the form
    # of the installed version of datasets; in one of them the list of data files is then replaced.
    # https://github.com/huggingface/datasets/blob/5.2.0/src/datasets/arrow_dataset.py#L1875
    empty = folder.with_name(f".{folder.name}.empty")
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    Dataset.from_dict({name: [] for name in features}, features=features).save_to_disk(str(empty))
    if shown:
        enable_progress_bar()
    state = json.loads((empty / "state.json").read_text(encoding="utf-8"))
    state["_data_files"] = [{"filename": name} for name in names]
    state["_fingerprint"] = fingerprint
    write_json(folder / "state.json", state)
    (empty / "dataset_info.json").replace(folder / "dataset_info.json")
    shutil.rmtree(empty)


def write_set(folder: Path, splits: dict[str, tuple[Any, Iterator[Any]]]) -> dict[str, int]:
    """Save splits, each features and Arrow tables of rows, as a ``DatasetDict``; returns the rows of each.

    Written next to the folder first: a killed process leaves the old set or the new one.
    """
    import pyarrow as pa

    recover(folder)
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    counts: dict[str, int] = {}
    for split, (features, tables) in splits.items():
        (fresh / split).mkdir(parents=True)
        names: list[str] = []
        counts[split] = 0
        size = SHARD_BYTES
        writer = None
        for table in tables:
            if size >= SHARD_BYTES:
                if writer is not None:
                    writer.close()
                names.append(f"data-{len(names):05d}.arrow")
                writer = pa.ipc.new_stream(str(fresh / split / names[-1]), features.arrow_schema)
                size = 0
            assert writer is not None
            # cast: the metadata of this schema says which columns are audio, and load_from_disk relies on it
            writer.write_table(table.select(list(features)).cast(features.arrow_schema))
            size += table.nbytes
            counts[split] += table.num_rows
        if writer is not None:
            writer.close()
        describe_split(features, fresh / split, names, f"{folder.name}-{split}-{counts[split]}")
    write_json(fresh / LISTING, {"splits": list(splits)})
    swap_in(fresh, folder)
    return counts


def write_rows(folder: Path, splits: Mapping[str, Iterable[Mapping[str, Any]]], columns: Mapping[str, type]) -> None:
    """Stream rows into a saved ``DatasetDict`` below ``folder``, whose other files stay; memory does not grow.

    ``columns`` are names and types (``str`` or ``int``). A set that was there is replaced when the new one is
    complete.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    kinds = {str: pa.string(), int: pa.int64()}
    schema = pa.schema({name: kinds[kind] for name, kind in columns.items()})
    scratch = folder / ".writing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    streams = {}
    # Not Dataset.from_generator, which leaves a copy in the user's Hugging Face cache.
    for split, rows in splits.items():
        path, iterator = scratch / f"{split}.arrow", iter(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            while batch := list(itertools.islice(iterator, _TEXT_BATCH)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        streams[split] = Dataset.from_file(str(path))
    DatasetDict(streams).save_to_disk(str(scratch / "set"))
    del streams  # unmaps its files: a network file system keeps a removed file that is in use, and so its folder
    move_in(scratch / "set", folder)
    shutil.rmtree(scratch)


def save_rows(source: Path, target: Path, kept: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Write the rows of the set in ``source`` with the keys ``kept`` ``(rows,)`` of every split to ``target``.

    Keys are ascending and unchanged, audio bytes as they are. A set that was in ``target`` is replaced when the new
    one is complete. Returns rows by split. Raises :class:`UserError` if the source lacks a split or a key.
    """
    splits = {}
    for split, keys in kept.items():
        table, known = open_keyed(source, split, f"rows of {source.name}")
        rows = join_rows(known, np.sort(keys), source.name, target.name)
        splits[split] = (table.features, rows_of(table, rows))
    return write_set(target, splits)


def rows_of(table: Any, rows: np.ndarray) -> Iterator[Any]:
    """Arrow tables of the rows at these positions ``(rows,)``, audio included, some at a time."""
    view = table.with_format("arrow")
    for start in range(0, rows.size, _AUDIO_BATCH):
        yield view[rows[start : start + _AUDIO_BATCH]]
