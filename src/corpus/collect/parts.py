"""First pass: pieces of work become parts on disk, each whole or not there; a killed run goes on behind them.

A part is ``N.arrow`` (all columns but the index; of the audio only where it lies), ``N.bin`` (audio written anew) and
``N.dropped.jsonl``. The audio of kept files and Hub rows is not copied before the second pass.
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

from src.common.errors import UserError
from src.common.json_lines import json_line
from src.common.machine import check_host
from src.corpus.collect.files import reason_of
from src.corpus.collect.pool import run_all
from src.corpus.recipe import IDS, Dropped, Inputs, Recipe, Row
from src.corpus.recipes import load_recipe

CELL = ("_name", "_file", "_offset", "_size")
"""Where a row's audio lies: a file, ``_offset`` -1 for all of it; the part's ``.bin``; or, if empty, a Hub row."""
SPLIT = "_split"
WHOLE, SPOOL = -1, "spool"
_FLUSH = 1000


@dataclass(frozen=True)
class Part:
    """One part's work. ``crashed`` are places of jobs that ended their process and are left out."""

    number: int
    folder: Path
    jobs: tuple[Any, ...]
    crashed: frozenset[int] = frozenset()

    @property
    def path(self) -> Path:
        """The finished part."""
        return self.folder / f"{self.number:06d}.arrow"

    def digest(self) -> str:
        """Tells whether a part on disk is of the same work."""
        return hashlib.blake2b(pickle.dumps(self.jobs, protocol=4), digest_size=12).hexdigest()


@dataclass(frozen=True)
class PartResult:
    """Rows in a part, rows that were dropped for an error, and rows that the recipe's filter left out."""

    rows: int
    dropped: int
    filtered: int


def make_parts(recipe: Recipe, inputs: Inputs, folder: Path, processes: int) -> Iterator[PartResult]:
    """Make all parts that are not there yet; yields one result for each, also for those that were."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = itertools.islice(recipe.work.jobs(inputs), inputs.options.limit)
    batches = iter(lambda: tuple(itertools.islice(jobs, recipe.work.per_part)), ())
    parts = (Part(number, folder, batch) for number, batch in enumerate(batches))
    yield from run_all(make_part, parts, processes, _after_crash, _set_up, (recipe.path, inputs))


def drop_stale(folder: Path, count: int) -> None:
    """Remove parts beyond ``count``, left by an earlier run over a larger input."""
    for path in folder.glob("*.arrow"):
        if int(path.stem) >= count:
            path.unlink()


_worker: dict[str, Any] = {}


def _set_up(path: str, inputs: Inputs) -> None:
    """Called once in a worker: the recipe and what it reads."""
    _worker.update(recipe=load_recipe(path), inputs=inputs)


def _after_crash(part: Part) -> Part:
    """The same part without the job that was under way when its process died."""
    return replace(part, crashed=part.crashed | {int(_mark(part).read_text() or 0)})


def _mark(part: Part) -> Path:
    return part.path.with_suffix(".at")


def make_part(part: Part) -> PartResult:
    """Make one part, unless it is there and of the same work."""
    digest = part.digest()
    done = _finished(part.path, digest)
    if done is not None:
        return done
    recipe: Recipe = _worker["recipe"]
    writer = _PartWriter(part, recipe)
    with _mark(part).open("w") as mark:
        for number, job in enumerate(part.jobs):
            os.pwrite(mark.fileno(), f"{number:8d}".encode(), 0)
            if number in part.crashed:
                writer.drop(Dropped(*ids_of(job), "ended the process that decoded it"))
                continue
            if isinstance(job, Dropped):
                writer.drop(job)
                continue
            try:
                for made in recipe.work.make(job, _worker["inputs"], recipe):
                    writer.drop(made) if isinstance(made, Dropped) else writer.add_or_drop(made)
            except Exception as error:  # one bad file must not end a run over a million
                check_host(error)
                writer.drop(Dropped(*ids_of(job), reason_of(error)))
    result = writer.close(digest)
    _mark(part).unlink()
    return result


def ids_of(job: Any) -> tuple[str, str]:
    """How a piece of work is called in the list of what was dropped."""
    first = job[0] if isinstance(job, (list, tuple)) and job else job
    if hasattr(first, "unique_id_1"):
        return str(first.unique_id_1), str(first.unique_id_2)
    return str(getattr(first, "path", first))[:200], ""


def _finished(path: Path, digest: str) -> PartResult | None:
    if not path.is_file():
        return None
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        kept = pa.ipc.open_file(source).schema.metadata or {}
    if kept.get(b"digest") != digest.encode():
        return None
    return PartResult(**json.loads(kept[b"counts"]))


@functools.lru_cache(maxsize=8)
def part_schema(path: str) -> Any:
    """Arrow schema of the parts of the recipe in module ``path``."""
    import pyarrow as pa

    recipe = load_recipe(path)
    kept = [name for name in recipe.columns if name not in ("audio", "dataset_index")]
    fields = [(name, getattr(pa, recipe.type_of(name))()) for name in kept]
    cell = [("_name", pa.string()), ("_file", pa.string()), ("_offset", pa.int64()), ("_size", pa.int64())]
    return pa.schema([*fields, *cell, (SPLIT, pa.string())])


def in_utf8(text: str, name: str) -> str:
    """The text. Raises :class:`UserError` if UTF-8 cannot hold it, as a file name in another encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{name} is not UTF-8: {text!a}"[:300]) from error
    return text


class _PartWriter:
    """Collects the rows of a part in files of temporary names."""

    def __init__(self, part: Part, recipe: Recipe) -> None:
        import pyarrow as pa

        self._part = part
        self._schema = part_schema(recipe.path)
        self._text = {name for name in self._schema.names if pa.types.is_string(self._schema.field(name).type)}
        self._rows: list[dict[str, Any]] = []
        self._batches: list[Any] = []
        self._spool = part.path.with_suffix(".bin")
        self._spooled = self._spool.open("wb")
        self._dropped = part.path.with_suffix(".dropped.jsonl").open("w", encoding="utf-8")
        self._counts = {"rows": 0, "dropped": 0, "filtered": 0}

    def drop(self, row: Dropped) -> None:
        """Count a row that is left out; errors are listed."""
        self._counts["dropped" if row.error else "filtered"] += 1
        if row.error:
            entry = {"unique_id_1": row.unique_id_1, "unique_id_2": row.unique_id_2, "reason": row.reason}
            self._dropped.write(json_line(entry))

    def add_or_drop(self, row: Row) -> None:
        """Keep a row, or drop it if a column does not take its value."""
        try:
            self._add(row)
        except (UserError, KeyError) as error:
            ids = [str(row.fields.get(name)) for name in IDS]
            self.drop(Dropped(ids[0], ids[1], reason_of(error)))

    def _add(self, row: Row) -> None:
        """Re-encoded audio goes to the spool, once all columns are known to be good."""
        audio = row.audio
        entry = {name: self._value(name, row.fields[name]) for name in self._schema.names[: -len(CELL) - 1]}
        in_utf8(audio.name, "the file name")
        if audio.data is not None:
            cell: tuple[Any, ...] = (audio.name, SPOOL, self._spooled.tell(), len(audio.data))
            self._spooled.write(audio.data)
        elif audio.hub_row is not None:
            cell = (audio.name, "", audio.hub_row[1], audio.size)
        else:
            cell = (audio.name, in_utf8(str(audio.file), "the path"), WHOLE, audio.size)
        self._rows.append({**entry, **dict(zip(CELL, cell, strict=True)), SPLIT: row.split})
        self._counts["rows"] += 1
        if len(self._rows) >= _FLUSH:
            self._flush()

    def _value(self, name: str, value: Any) -> Any:
        """Text columns hold ``str`` of what upstream has, whatever its type; missing values stay missing."""
        import pyarrow as pa

        if value is None:
            return None
        if name in self._text:
            return in_utf8(str(value), name)
        try:
            pa.scalar(value, self._schema.field(name).type)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{name} is {value!r}, expected {self._schema.field(name).type}") from error
        return value

    def _flush(self) -> None:
        import pyarrow as pa

        self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self, digest: str) -> PartResult:
        """Write the part under its name; from then on it counts as done."""
        import pyarrow as pa

        if self._rows:
            self._flush()
        self._spooled.close()
        self._dropped.close()
        if not self._spool.stat().st_size:
            self._spool.unlink()
        schema = self._schema.with_metadata({"digest": digest, "counts": json.dumps(self._counts)})
        path = self._part.path
        temporary = path.with_suffix(".tmp")
        # one batch, so that the second pass takes rows from plain arrays
        table = pa.Table.from_batches(self._batches, schema=self._schema).combine_chunks()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        temporary.replace(path)
        return PartResult(**self._counts)
