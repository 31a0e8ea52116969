"""Index of a shard set: which tar shards there are, and the size of every row in them.

A shard set is a folder, of this machine or behind an address of fsspec (``https://``, ``s3://``, ``gs://``,
``hf://``), with ``index.json``, ``rows.parquet`` and tar shards in the WebDataset layout: for each row ``NAME.json``
with its texts and ``NAME.EXT`` with its clip, as it was encoded. The order of an epoch is computed from the index
alone, before any shard is read; that is what makes a resumed run exact (:mod:`src.dataset.stream_order`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.common.files import write_json
from src.dataset.remote_files import read_remote

INDEX_FILE, ROWS_FILE = "index.json", "rows.parquet"
FORMAT = "alarm-shards-1"
NO_TARGET = -1
"""Size of the target of a row that has none in this mode."""


def is_shard_set(name: str) -> bool:
    """Whether the first entry of a mixture's row is the address of a shard set: folder names have no slash."""
    return "/" in name


@dataclass(frozen=True)
class TarShard:
    """One tar file, by its name below the set's address or its own address; ``size`` in bytes."""

    file: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """Shards of one set and split, in order, and the columns of their rows, in the same order.

    Attributes:
        seconds: length of the clips, float32 ``(rows,)``.
        described: whether a row has its clip in words, bool ``(rows,)``.
        sizes: by mode, bytes of the target in UTF-8, int64 ``(rows,)``; :data:`NO_TARGET` without one.
        digest: checksum of the whole index.
    """

    address: str
    name: str
    split: str
    shards: tuple[TarShard, ...]
    seconds: np.ndarray
    described: np.ndarray
    sizes: Mapping[str, np.ndarray]
    digest: str = ""

    @property
    def starts(self) -> np.ndarray:
        """Number of the first row of each shard, and the number of all rows, int64 ``(shards + 1,)``."""
        return np.concatenate([[0], np.cumsum([shard.rows for shard in self.shards])]).astype(np.int64)

    def address_of(self, shard: int) -> str:
        """Address of one shard."""
        file = self.shards[shard].file
        return file if "://" in file or file.startswith("/") else f"{self.address.rstrip('/')}/{file}"


def write_index(
    folder: Path,
    name: str,
    split: str,
    shards: Sequence[TarShard],
    columns: Mapping[str, Sequence[Any]],
    about: Mapping[str, Any],
) -> None:
    """Write the index of finished shards into ``folder``, ``index.json`` last: without it the set is not complete.

    ``columns`` are ``seconds``, ``described`` and one of target sizes for each mode; ``about`` is recorded only.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"seconds": pa.float32(), "described": pa.bool_()}
    table = pa.table({key: pa.array(values, kinds.get(key, pa.int64())) for key, values in columns.items()})
    content = io.BytesIO()
    parquet.write_table(table, content)
    temporary = folder / f".{ROWS_FILE}.tmp"
    temporary.write_bytes(content.getvalue())
    temporary.replace(folder / ROWS_FILE)
    modes = [key for key in columns if key not in kinds]
    record = {
        "format": FORMAT,
        "name": name,
        "split": split,
        "rows": len(table),
        "hours": round(float(np.sum(columns["seconds"])) / 3600, 4),
        "modes": {mode: int(sum(size != NO_TARGET for size in columns[mode])) for mode in modes},
        **about,
        "rows_sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "shards": [asdict(shard) for shard in shards],
    }
    write_json(folder / INDEX_FILE, record)


def read_index(address: str) -> ShardIndex:
    """Read the index of a shard set. Raises :class:`UserError` for an address without one, and for a damaged one."""
    import pyarrow as pa
    from pyarrow import parquet

    base = address.rstrip("/")
    where = f"{base}/{INDEX_FILE}"
    stored = read_remote(where, "index of a shard set; scripts/shard_dataset.py writes one")
    try:
        record = json.loads(stored)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, expected {FORMAT!r}")
        shards = tuple(TarShard(**shard) for shard in record["shards"])
        rows = read_remote(f"{base}/{ROWS_FILE}", "rows of a shard set's index")
        if hashlib.sha256(rows).hexdigest() != record["rows_sha256"]:
            raise ValueError(f"{ROWS_FILE} is another one than it was written with")
        table = parquet.read_table(io.BytesIO(rows))
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        if len(table) != sum(shard.rows for shard in shards):
            raise ValueError(f"{ROWS_FILE} has {len(table)} rows, its shards {sum(shard.rows for shard in shards)}")
        seconds, described = columns.pop("seconds"), columns.pop("described")
        return ShardIndex(
            base, record["name"], record["split"], shards, seconds, described, columns,
            hashlib.sha256(stored).hexdigest(),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{where}: not a whole index of a shard set ({error}); write or copy it again") from error
