"""First pass: jobs become batches of rows on disk, each complete or absent; a killed run continues after them.

A batch is ``N.arrow`` (all columns but the index; of the audio only its place), ``N.bin`` (audio that was encoded
again) and ``N.dropped.jsonl``. The audio of kept files and Hub rows is not copied before the second pass.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.common.errors import UserError, check_host
from src.common.files import json_line
from src.corpus.collect.pool import crashed_at, run_all
from src.corpus.recipe import IDS, CorpusRow, Dropped, Inputs, Recipe
from src.corpus.recipes import load_recipe
from src.corpus.rows.make import reason_of

CELL = ("_name", "_file", "_offset", "_size")
"""Place of a row's audio: a file, ``_offset`` -1 for all of it; the batch's ``.bin``; or, if empty, a Hub row."""
SPLIT = "_split"
WHOLE, SPOOL = -1, "spool"
_FLUSH = 1000


@dataclass(frozen=True)
class RowBatch:
    """The work of one batch. ``crashed`` are places of jobs that ended their process and are left out."""

    number: int
    folder: Path
    jobs: tuple[Any, ...]
    crashed: frozenset[int] = frozenset()

    @property
    def path(self) -> Path:
        """The finished batch."""
        return self.folder / f"{self.number:06d}.arrow"

    @property
    def position(self) -> Path:
        """File with the place of the job that is worked on."""
        return self.path.with_suffix(".at")

    def without_current_job(self) -> RowBatch:
        """The same batch without the job that was worked on when its process died."""
        return replace(self, crashed=self.crashed | {crashed_at(self.position, self.crashed, str(self.folder))})


@dataclass(frozen=True)
class BatchResult:
    """Rows in a batch, rows that were dropped for an error, and rows that the recipe's filter left out."""

    rows: int
    dropped: int
    filtered: int


def make_batches(recipe: Recipe, inputs: Inputs, folder: Path, processes: int) -> Iterator[BatchResult]:
    """Make all batches that are not there yet; yields one result for each, also for those that were."""
    folder.mkdir(parents=True, exist_ok=True)
    for mark in folder.glob("*.at"):  # of a run that was killed
        mark.unlink()
    jobs = itertools.islice(recipe.work.jobs(inputs), inputs.options.limit)
    grouped = iter(lambda: tuple(itertools.islice(jobs, recipe.work.per_batch)), ())
    batches = (RowBatch(number, folder, group) for number, group in enumerate(grouped))
    count = 0
    for result in run_all(
        make_batch, batches, processes, RowBatch.without_current_job, _set_up, (recipe.path, inputs)
    ):
        count += 1
        yield result
    for path in folder.glob("*.arrow"):
        if int(path.stem) >= count:  # of an earlier run over a larger input
            path.unlink()


_worker: dict[str, Any] = {}


def _set_up(path: str, inputs: Inputs) -> None:
    _worker.update(recipe=load_recipe(path), inputs=inputs)


def make_batch(batch: RowBatch) -> BatchResult:
    """Make one batch, unless it is there and of the same jobs."""
    # Classes in jobs are pickled by module and name: renaming one makes finished batches of a stopped run again.
    digest = hashlib.blake2b(pickle.dumps(batch.jobs, protocol=4), digest_size=12).hexdigest()
    done = _finished(batch.path, digest)
    if done is not None:
        return done
    recipe: Recipe = _worker["recipe"]
    writer = _BatchWriter(batch, recipe)
    with batch.position.open("w") as position:
        for number, job in enumerate(batch.jobs):
            # Of one width, so that it covers the last one, and past Python's buffer, which a crash would lose.
            os.pwrite(position.fileno(), f"{number:8d}".encode(), 0)
            if number in batch.crashed:
                writer.drop(Dropped(*_ids_of(job), "ended the process that decoded it"))
                continue
            if isinstance(job, Dropped):
                writer.drop(job)
                continue
            try:
                for made in recipe.work.make(job, _worker["inputs"], recipe):
                    writer.drop(made) if isinstance(made, Dropped) else writer.add_or_drop(made)
            except Exception as error:  # one bad file must not end a run over a million
                check_host(error)
                writer.drop(Dropped(*_ids_of(job), reason_of(error)))
        os.ftruncate(position.fileno(), 0)  # no job is at fault for what follows
    result = writer.close(digest)
    batch.position.unlink()
    return result


def _ids_of(job: Any) -> tuple[str, str]:
    """Ids of a job in the list of dropped rows: of its first draft, else the one or two texts that it begins with."""
    first, second, *_ = (*job, "", "") if isinstance(job, (list, tuple)) else (job, "")
    if hasattr(first, "unique_id_1"):
        return str(first.unique_id_1), str(first.unique_id_2)
    return str(getattr(first, "path", first))[:200], second[:200] if isinstance(second, str) else ""


def _finished(path: Path, digest: str) -> BatchResult | None:
    if not path.is_file():
        return None
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        kept = pa.ipc.open_file(source).schema.metadata or {}
    return BatchResult(**json.loads(kept[b"counts"])) if kept.get(b"digest") == digest.encode() else None


@functools.lru_cache(maxsize=8)
def _batch_schema(path: str) -> Any:
    """Arrow schema of the batches of the recipe in module ``path``."""
    import pyarrow as pa

    recipe = load_recipe(path)
    kept = [name for name in recipe.columns if name not in ("audio", "dataset_index")]
    fields = [(name, getattr(pa, recipe.type_of(name))()) for name in kept]
    cell = [("_name", pa.string()), ("_file", pa.string()), ("_offset", pa.int64()), ("_size", pa.int64())]
    return pa.schema([*fields, *cell, (SPLIT, pa.string())])


def _in_utf8(text: str, name: str) -> str:
    """The text. Raises :class:`UserError` if UTF-8 cannot hold it, as a file name in another encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{name} is not UTF-8: {text!a}"[:300]) from error
    return text


class _BatchWriter:
    """Collects the rows of a batch; files have temporary names until :meth:`close`."""

    def __init__(self, batch: RowBatch, recipe: Recipe) -> None:
        import pyarrow as pa

        self._path = batch.path
        self._schema = _batch_schema(recipe.path)
        self._text = {name for name in self._schema.names if pa.types.is_string(self._schema.field(name).type)}
        self._rows: list[dict[str, Any]] = []
        self._tables: list[Any] = []
        self._spool = self._path.with_suffix(".bin").open("wb")
        self._dropped = self._path.with_suffix(".dropped.jsonl").open("w", encoding="utf-8")
        self._counts = {"rows": 0, "dropped": 0, "filtered": 0}

    def drop(self, row: Dropped) -> None:
        """Count a row that is left out; errors are listed."""
        self._counts["dropped" if row.error else "filtered"] += 1
        if row.error:
            entry = {"unique_id_1": row.unique_id_1, "unique_id_2": row.unique_id_2, "reason": row.reason}
            self._dropped.write(json_line(entry))

    def add_or_drop(self, row: CorpusRow) -> None:
        """Keep a row, or drop it if a column does not take its value."""
        audio = row.audio
        try:
            entry = {name: self._value(name, row.fields[name]) for name in self._schema.names[: -len(CELL) - 1]}
            _in_utf8(audio.name, "the file name")
            if audio.data is not None:
                cell: tuple[Any, ...] = (audio.name, SPOOL, self._spool.tell(), len(audio.data))
                self._spool.write(audio.data)
            elif audio.hub_row is not None:
                cell = (audio.name, "", audio.hub_row[1], audio.size)
            else:
                cell = (audio.name, _in_utf8(str(audio.file), "the path"), WHOLE, audio.size)
        except (UserError, KeyError) as error:
            ids = [str(row.fields.get(name)) for name in IDS]
            self.drop(Dropped(ids[0], ids[1], reason_of(error)))
            return
        self._rows.append({**entry, **dict(zip(CELL, cell, strict=True)), SPLIT: row.split})
        self._counts["rows"] += 1
        if len(self._rows) >= _FLUSH:
            self._flush()

    def _value(self, name: str, value: Any) -> Any:
        """Text columns hold ``str`` of the upstream value, whatever its type; missing values stay missing."""
        import pyarrow as pa

        if value is None:
            return None
        if name in self._text:
            return _in_utf8(str(value), name)
        try:
            pa.scalar(value, self._schema.field(name).type)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{name} is {value!r}, expected {self._schema.field(name).type}") from error
        return value

    def _flush(self) -> None:
        import pyarrow as pa

        self._tables.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self, digest: str) -> BatchResult:
        """Write the batch under its name; from then on it counts as done."""
        import pyarrow as pa

        if self._rows:
            self._flush()
        spooled = self._spool.tell()
        self._spool.close()
        self._dropped.close()
        if not spooled:
            self._path.with_suffix(".bin").unlink()
        schema = self._schema.with_metadata({"digest": digest, "counts": json.dumps(self._counts)})
        temporary = self._path.with_suffix(".tmp")
        # One record batch: the second pass takes rows by number, and `take` joins all chunks of a column at every
        # call (https://github.com/apache/arrow/issues/39565).
        table = pa.Table.from_batches(self._tables, schema=self._schema).combine_chunks()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        temporary.replace(self._path)
        return BatchResult(**self._counts)
