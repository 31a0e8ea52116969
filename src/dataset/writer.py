"""Saved data sets written from Arrow tables; a killed process leaves the old set or the new one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.common.existing import LISTING
from src.common.folders import recover, swap_in
from src.common.run_record import write_json

SHARD_BYTES = 500 * 2**20


def move_in(fresh: Path, folder: Path) -> None:
    """Move the saved ``DatasetDict`` ``fresh`` into ``folder``, which keeps its other files (records, a lock).

    Every split is exchanged in one step and the listing comes last: a killed process leaves each listed split whole,
    the old one or the new one. ``fresh`` is removed.
    """
    for split in sorted(path for path in fresh.iterdir() if path.is_dir()):
        swap_in(split, folder / split.name)
    (fresh / LISTING).replace(folder / LISTING)
    shutil.rmtree(fresh)


def describe_split(features: Any, folder: Path, names: list[str], fingerprint: str) -> None:
    """Make Arrow files in ``folder`` a saved data set of the library: what ``save_to_disk`` writes beside them."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

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
            writer.write_table(table.select(list(features)).cast(features.arrow_schema))
            size += table.nbytes
            counts[split] += table.num_rows
        if writer is not None:
            writer.close()
        describe_split(features, fresh / split, names, f"{folder.name}-{split}-{counts[split]}")
    write_json(fresh / LISTING, {"splits": list(splits)})
    swap_in(fresh, folder)
    return counts
