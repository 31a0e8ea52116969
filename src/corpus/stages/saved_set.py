"""Write a saved ``DatasetDict`` from streams of rows: flat memory, and never half a set."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.dataset.writer import move_in

_BATCH = 1000

Entry = Mapping[str, Any]


def write_splits(folder: Path, splits: Mapping[str, Iterable[Entry]], columns: Mapping[str, type]) -> None:
    """Write the rows of all ``splits`` below ``folder``; ``columns`` are their names and types (``str`` or ``int``).

    A set that was there is replaced when the new one is complete; other files in the folder stay.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

    kinds = {str: pa.string(), int: pa.int64()}
    schema = pa.schema({name: kinds[kind] for name, kind in columns.items()})
    scratch = folder / ".writing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    streams = {}
    for split, entries in splits.items():
        path = scratch / f"{split}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(entries):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
        streams[split] = Dataset.from_file(str(path))
    DatasetDict(streams).save_to_disk(str(scratch / "set"))
    del streams
    move_in(scratch / "set", folder)
    shutil.rmtree(scratch)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch
