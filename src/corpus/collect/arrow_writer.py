"""Second pass: rows of all batches in sorted order, numbered, with their audio, as a saved ``DatasetDict``.

Memory holds the ids of all rows and one write of audio for each process. Shards are written by several processes,
each complete or absent.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import write_json
from src.corpus.collect.pool import run_all
from src.corpus.collect.row_batches import CELL, SPLIT, SPOOL, WHOLE
from src.corpus.recipe import IDS, Inputs, Recipe
from src.corpus.recipes import load_recipe
from src.corpus.rows.audio import RATE
from src.corpus.rows.make import cell_bytes
from src.dataset.writer import SHARD_BYTES, describe_split

_WRITE_ROWS, _WRITE_BYTES = 1000, 32 * 2**20
_ROW_BYTES = 1500
"""Text of a row, about."""


@dataclass(frozen=True)
class SplitOrder:
    """Rows of one split in their final order: numbers over all batches ``(rows,)``, shard bounds, pairs left out."""

    split: str
    order: np.ndarray
    bounds: tuple[int, ...]
    repeated: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of a split's order, and the file they go to."""

    split: str
    start: int
    stop: int
    path: Path

    def cannot_crash(self) -> Shard:
        """Raises: unlike a decoder, writing has no reason to end its process."""
        raise RuntimeError(
            f"the process that wrote {self.path} died (memory?); start again, finished shards are kept"
        )


def sort_rows(batches: list[Path], keep_repeated: bool) -> list[SplitOrder]:
    """Sort by both ids (UTF-8 bytes, missing last, stable) and find rows whose pair an earlier row has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    open_batch.cache_clear()  # batches of an earlier corpus or try may have had the same names
    tables = [open_batch(str(path)).select([*IDS, SPLIT, "_size"]) for path in batches]
    ids = pa.concat_tables(tables) if tables else pa.table({name: [] for name in (*IDS, SPLIT, "_size")})
    sizes = np.asarray(ids.column("_size"), dtype=np.int64)
    found = []
    for split in pc.unique(ids.column(SPLIT)).to_pylist():
        mine = np.flatnonzero(np.asarray(pc.equal(ids.column(SPLIT), split)))
        chosen = ids.select(list(IDS)).take(mine) if mine.size < len(ids) else ids.select(list(IDS))
        order = np.asarray(
            pc.sort_indices(chosen, sort_keys=[(name, "ascending", "at_end") for name in IDS]), dtype=np.int64
        )
        repeated = np.zeros(order.size, dtype=bool)  # has the pair of the row before it
        here, before = order[1:], order[:-1]
        equal = [pc.equal(chosen.column(name).take(here), chosen.column(name).take(before)) for name in IDS]
        repeated[1:] = np.asarray(pc.fill_null(pc.and_(*equal), False))
        pairs = chosen.take(order[repeated]).to_pylist()
        order = mine[order if keep_repeated else order[~repeated]]
        # A shard ends before the row that would begin behind a multiple of SHARD_BYTES.
        begins = np.cumsum(sizes[order] + _ROW_BYTES) - (sizes[order] + _ROW_BYTES)
        starts = np.flatnonzero(np.diff(begins // SHARD_BYTES, prepend=-1))
        bounds = (*starts.tolist(), order.size) if order.size else (0, 0)
        found.append(SplitOrder(split, order, bounds, tuple((row[IDS[0]], row[IDS[1]]) for row in pairs)))
    return found


def write_splits(
    recipe: Recipe, inputs: Inputs, batches: list[Path], orders: list[SplitOrder], folder: Path, processes: int
) -> Iterator[int]:
    """Write all shards below ``folder`` and the files of a saved data set; yields the rows of each finished shard."""
    from datasets import Audio, Features, Value

    audio = Audio(sampling_rate=RATE)  # resampled when decoded: the saved bytes keep their own rate
    features = Features({name: audio if name == "audio" else Value(recipe.type_of(name)) for name in recipe.columns})
    shards: list[Shard] = []
    for order in orders:
        (folder / order.split).mkdir(parents=True, exist_ok=True)
        np.save(folder.parent / f"order_{order.split}.npy", order.order)
        count = len(order.bounds) - 1
        for number, (start, stop) in enumerate(zip(order.bounds, order.bounds[1:], strict=False)):
            path = folder / order.split / f"data-{number:05d}-of-{count:05d}.arrow"
            shards.append(Shard(order.split, start, stop, path))
    setup = (recipe.path, inputs, tuple(str(path) for path in batches), folder.parent, features.arrow_schema)
    yield from run_all(write_shard, shards, processes, Shard.cannot_crash, _set_up, setup)
    for order in orders:
        names = [shard.path.name for shard in shards if shard.split == order.split]
        describe_split(features, folder / order.split, names, f"{recipe.name}-{recipe.version}")
    write_json(folder / "dataset_dict.json", {"splits": [order.split for order in orders]})


_worker: dict[str, Any] = {}


def _set_up(path: str, inputs: Inputs, batches: tuple[str, ...], scratch: Path, schema: Any) -> None:
    starts = np.cumsum([0, *(open_batch(batch).num_rows for batch in batches)])
    open_batch.cache_clear()
    _spool.cache_clear()
    _worker.clear()
    _worker.update(recipe=load_recipe(path), inputs=inputs, batches=batches, starts=starts, scratch=scratch,
                   orders={}, schema=schema)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def open_batch(path: str) -> Any:
    """A batch's table, memory-mapped."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(path)).read_all()


@functools.lru_cache(maxsize=64)
def _spool(batch: str) -> Any:
    return Path(batch).with_suffix(".bin").open("rb")


def write_shard(shard: Shard) -> int:
    """Write one shard unless it is there; returns its rows."""
    import pyarrow as pa

    if shard.path.is_file():
        return shard.stop - shard.start
    orders = _worker["orders"]
    if shard.split not in orders:
        orders[shard.split] = np.load(_worker["scratch"] / f"order_{shard.split}.npy", mmap_mode="r")
    temporary = shard.path.with_suffix(".tmp")  # under its own name a shard is complete
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, _worker["schema"]) as writer:
        for start in range(shard.start, shard.stop, _WRITE_ROWS):
            stop = min(start + _WRITE_ROWS, shard.stop)
            rows = _rows_by_number(np.asarray(orders[shard.split][start:stop]))
            first, total = 0, 0
            for place, size in enumerate(rows.column("_size").to_pylist()):
                if total and total + size > _WRITE_BYTES:
                    writer.write_batch(_finish(rows.slice(first, place - first), start + first, shard.split))
                    first, total = place, 0
                total += size
            writer.write_batch(_finish(rows.slice(first), start + first, shard.split))
    temporary.replace(shard.path)
    return shard.stop - shard.start


def _rows_by_number(numbers: np.ndarray) -> Any:
    """Rows of all batches by their numbers, in that order, and the batch of each as ``_batch``."""
    import pyarrow as pa

    # One `take` for each batch, then one that brings the rows back into order: batches stay memory-mapped.
    places = np.searchsorted(_worker["starts"], numbers, side="right") - 1
    by_batch = np.argsort(places, kind="stable")
    pieces = []
    for batch in np.unique(places):
        mine = numbers[places == batch] - _worker["starts"][batch]
        piece = open_batch(_worker["batches"][batch]).take(pa.array(mine))
        pieces.append(piece.append_column("_batch", pa.array(np.full(mine.size, batch))))
    gathered = pa.concat_tables(pieces).combine_chunks()
    return gathered.take(pa.array(np.argsort(by_batch))).combine_chunks()


def _finish(rows: Any, first_index: int, split: str) -> Any:
    """A record batch of the final schema: audio read, ``dataset_index`` added."""
    import pyarrow as pa

    schema = _worker["schema"]
    cells = zip(*(rows.column(name).to_pylist() for name in (*CELL[1:], "_batch")), strict=True)
    data = pa.array([_read_cell(split, *cell) for cell in cells], pa.binary())
    made = {
        "audio": pa.StructArray.from_arrays([data, rows.column("_name").combine_chunks()], ["bytes", "path"]),
        "dataset_index": pa.array(np.arange(first_index, first_index + rows.num_rows), pa.int64()),
    }
    arrays = [made[name] if name in made else rows.column(name).combine_chunks() for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _read_cell(split: str, file: str, offset: int, size: int, batch: int) -> bytes:
    if file == SPOOL:
        return os.pread(_spool(_worker["batches"][batch]).fileno(), size, offset)
    if offset == WHOLE:
        return Path(file).read_bytes()
    inputs = _worker["inputs"]
    return cell_bytes(inputs.rows[split][offset][_worker["recipe"].audio], inputs.allowed[split])
