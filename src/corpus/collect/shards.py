"""Second pass: rows of all parts in sorted order, numbered, with their audio, as a saved ``DatasetDict``.

Memory holds the ids of all rows and one batch of audio for each process. Shards are written by several processes,
each whole or not there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.run_record import write_json
from src.corpus.collect.audio import RATE
from src.corpus.collect.parts import CELL, SPLIT, SPOOL, WHOLE
from src.corpus.collect.pool import run_all
from src.corpus.recipe import IDS, Inputs, Recipe
from src.corpus.recipes import load_recipe
from src.dataset.writer import SHARD_BYTES, describe_split

_BATCH_ROWS, _BATCH_BYTES = 1000, 32 * 2**20
_ROW_BYTES = 1500
"""Text of a row, about."""


@dataclass(frozen=True)
class SplitOrder:
    """Rows of one split in their final order: numbers over all parts ``(rows,)``, shard bounds, pairs left out."""

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


def sort_rows(parts: list[Path], keep_repeated: bool) -> list[SplitOrder]:
    """Sort by both ids (UTF-8 bytes, missing last, stable) and find rows whose pair an earlier row has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    open_part.cache_clear()  # parts of an earlier corpus or try may have had the same names
    tables = [open_part(str(path)).select([*IDS, SPLIT, "_size"]) for path in parts]
    ids = pa.concat_tables(tables) if tables else pa.table({name: [] for name in (*IDS, SPLIT, "_size")})
    sizes = np.asarray(ids.column("_size"), dtype=np.int64)
    found = []
    for split in pc.unique(ids.column(SPLIT)).to_pylist():
        mine = np.flatnonzero(np.asarray(pc.equal(ids.column(SPLIT), split)))
        chosen = ids.select(list(IDS)).take(mine) if mine.size < len(ids) else ids.select(list(IDS))
        order = np.asarray(
            pc.sort_indices(chosen, sort_keys=[(name, "ascending", "at_end") for name in IDS]), dtype=np.int64
        )
        repeated = _repeated(chosen, order)
        pairs = chosen.take(order[repeated]).to_pylist()
        if not keep_repeated:
            order = order[~repeated]
        order = mine[order]
        bounds = _bounds(sizes[order] + _ROW_BYTES)
        found.append(SplitOrder(split, order, bounds, tuple((row[IDS[0]], row[IDS[1]]) for row in pairs)))
    return found


def _repeated(ids: Any, order: np.ndarray) -> np.ndarray:
    """Whether a row in sorted order has the pair of the row before it, ``(rows,)``."""
    import pyarrow.compute as pc

    same = np.zeros(order.size, dtype=bool)
    if order.size > 1:
        here, before = order[1:], order[:-1]
        equal = [pc.equal(ids.column(name).take(here), ids.column(name).take(before)) for name in IDS]
        same[1:] = np.asarray(pc.fill_null(pc.and_(*equal), False))
    return same


def _bounds(sizes: np.ndarray) -> tuple[int, ...]:
    """Starts of the shards and the end of the last, so that none is much over :data:`SHARD_BYTES`."""
    if sizes.size == 0:
        return (0, 0)
    shard = np.concatenate([[0], np.cumsum(sizes)[:-1]]) // SHARD_BYTES
    starts = np.flatnonzero(np.concatenate([[True], shard[1:] != shard[:-1]]))
    return (*starts.tolist(), int(sizes.size))


def write_splits(
    recipe: Recipe, inputs: Inputs, parts: list[Path], orders: list[SplitOrder], folder: Path, processes: int
) -> Iterator[int]:
    """Write all shards below ``folder`` and what makes it a data set; yields the rows of each finished shard."""
    shards: list[Shard] = []
    scratch = folder.parent
    for order in orders:
        (folder / order.split).mkdir(parents=True, exist_ok=True)
        np.save(scratch / f"order_{order.split}.npy", order.order)
        count = len(order.bounds) - 1
        for number, (start, stop) in enumerate(zip(order.bounds, order.bounds[1:], strict=False)):
            path = folder / order.split / f"data-{number:05d}-of-{count:05d}.arrow"
            shards.append(Shard(order.split, start, stop, path))
    schema = features_of(recipe).arrow_schema
    setup = (recipe.path, inputs, tuple(str(path) for path in parts), scratch, schema)
    yield from run_all(write_shard, shards, processes, _cannot_crash, _set_up, setup)
    for order in orders:
        names = [shard.path.name for shard in shards if shard.split == order.split]
        describe_split(features_of(recipe), folder / order.split, names, f"{recipe.name}-{recipe.version}")
    write_json(folder / "dataset_dict.json", {"splits": [order.split for order in orders]})


def _cannot_crash(shard: Shard) -> Shard:
    raise RuntimeError(f"the process that wrote {shard.path} died (memory?); start again, finished shards are kept")


def features_of(recipe: Recipe) -> Any:
    """The saved set's features: audio as at 16 kHz (resampled when decoded), texts and numbers."""
    from datasets import Audio, Features, Value

    audio = Audio(sampling_rate=RATE)
    return Features({name: audio if name == "audio" else Value(recipe.type_of(name)) for name in recipe.columns})


_worker: dict[str, Any] = {}


def _set_up(path: str, inputs: Inputs, parts: tuple[str, ...], scratch: Path, schema: Any) -> None:
    starts = np.cumsum([0, *(open_part(part).num_rows for part in parts)])
    recipe = load_recipe(path)
    open_part.cache_clear()
    _spool.cache_clear()
    _worker.clear()
    _worker.update(
        recipe=recipe, inputs=inputs, parts=parts, starts=starts, scratch=scratch, orders={}, schema=schema
    )


@functools.lru_cache(maxsize=4096)
def open_part(path: str) -> Any:
    """A part's table, memory-mapped."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def write_shard(shard: Shard) -> int:
    """Write one shard unless it is there; returns its rows."""
    import pyarrow as pa

    if shard.path.is_file():
        return shard.stop - shard.start
    orders = _worker["orders"]
    if shard.split not in orders:
        orders[shard.split] = np.load(_worker["scratch"] / f"order_{shard.split}.npy", mmap_mode="r")
    temporary = shard.path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, _worker["schema"]) as writer:
        for start in range(shard.start, shard.stop, _BATCH_ROWS):
            stop = min(start + _BATCH_ROWS, shard.stop)
            rows = _gather(np.asarray(orders[shard.split][start:stop]))
            for first, last in _by_bytes(np.asarray(rows.column("_size"))):
                writer.write_batch(_finish(rows.slice(first, last - first), start + first, shard.split))
    temporary.replace(shard.path)
    return shard.stop - shard.start


def _gather(numbers: np.ndarray) -> Any:
    """Rows of all parts by their numbers, in that order, and the part of each as ``_part``."""
    import pyarrow as pa

    places = np.searchsorted(_worker["starts"], numbers, side="right") - 1
    by_part = np.argsort(places, kind="stable")
    pieces = []
    for part in np.unique(places):
        mine = numbers[places == part] - _worker["starts"][part]
        piece = open_part(_worker["parts"][part]).take(pa.array(mine))
        pieces.append(piece.append_column("_part", pa.array(np.full(mine.size, part))))
    gathered = pa.concat_tables(pieces).combine_chunks()
    back = np.empty_like(by_part)
    back[by_part] = np.arange(by_part.size)
    return gathered.take(pa.array(back)).combine_chunks()


def _by_bytes(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose audio fits a batch."""
    first, total = 0, 0
    for place, size in enumerate(sizes.tolist()):
        if total and total + size > _BATCH_BYTES:
            yield first, place
            first, total = place, 0
        total += size
    yield first, len(sizes)


def _finish(rows: Any, first_index: int, split: str) -> Any:
    """A batch of the final schema: audio read, ``dataset_index`` added."""
    import pyarrow as pa

    schema, count = _worker["schema"], rows.num_rows
    files, offsets, sizes, parts = (rows.column(name).to_pylist() for name in (*CELL[1:], "_part"))
    cells = zip(files, offsets, sizes, parts, strict=True)
    data = pa.array([_read_cell(*cell, split=split) for cell in cells], pa.binary())
    made = {
        "audio": pa.StructArray.from_arrays([data, rows.column("_name").combine_chunks()], ["bytes", "path"]),
        "dataset_index": pa.array(np.arange(first_index, first_index + count), pa.int64()),
    }
    arrays = [made[name] if name in made else rows.column(name).combine_chunks() for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@functools.lru_cache(maxsize=64)
def _spool(part: str) -> Any:
    return Path(part).with_suffix(".bin").open("rb")


def _read_cell(file: str, offset: int, size: int, part: int, split: str) -> bytes:
    if file == SPOOL:
        return os.pread(_spool(_worker["parts"][part]).fileno(), size, offset)
    if offset == WHOLE:
        return Path(file).read_bytes()
    from src.corpus.collect.hub import cell_bytes, rows_roots

    inputs = _worker["inputs"]
    rows = inputs.rows[split]
    return cell_bytes(rows[offset][_worker["recipe"].audio], rows_roots(rows, inputs))
