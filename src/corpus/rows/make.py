"""From drafts to rows: of whole files, and of Hugging Face data sets.

A row that fails is dropped with its reason and the others go on: every recipe goes through its tables, files and
utterances with :func:`each_row`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from src.audio.decode import cell_source
from src.common.errors import UserError, check_host
from src.corpus.recipe import (
    CorpusRow,
    Draft,
    Dropped,
    Inputs,
    Options,
    Recipe,
    Stored,
    UpstreamRecord,
    Work,
    row_fields,
)
from src.corpus.rows.audio import RATE, encode_wav, read_mono, seconds_of

K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")
Drafts = Callable[[Inputs], Iterable["Draft | Dropped"]]
DraftOf = Callable[[UpstreamRecord, Options], "Draft | Dropped"]
RowRange = tuple[str, int, int]
BLOCK, PER_BATCH = 200, 5
"""Rows of one job over Hub rows, and jobs of a batch."""


def reason_of(error: Exception) -> str:
    """Why a row is dropped, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        return f"has no {error.args[0]!r}"
    if "NoneType" in str(error):
        return f"has an empty cell ({type(error).__name__}: {error})"
    return f"{type(error).__name__}: {error}"


def each_row(
    rows: Iterable[S | Dropped], ids: Callable[[S], tuple[object, object]], make: Callable[[S], Iterable[T | Dropped]]
) -> Iterator[T | Dropped]:
    """All that ``make`` yields for every row of a table or list; rows that are dropped already are passed on.

    A row that cannot be used is dropped under its ``ids``, with the reason, and the others go on. Raises
    :class:`MachineError` if the machine is at fault.
    """
    for row in rows:
        if isinstance(row, Dropped):
            yield row
            continue
        try:
            one, two = ids(row)
            names = str(one), str(two)
        except Exception:  # the ids cannot be read either
            names = str(row)[:200], ""
        try:
            found = list(make(row))
        except Exception as error:
            check_host(error)
            found = [Dropped(*names, reason_of(error))]
        # outside the `try`: an error of whoever takes the rows is none of this row's
        yield from found


def grouped(pairs: Iterable[tuple[K, T] | Dropped]) -> Iterator[tuple[K, tuple[T, ...]] | Dropped]:
    """Rows that are dropped, then the values of each key, keys in the order of their first pair."""
    groups: dict[K, list[T]] = {}
    for pair in pairs:
        if isinstance(pair, Dropped):
            yield pair
        else:
            groups.setdefault(pair[0], []).append(pair[1])
    yield from ((key, tuple(values)) for key, values in groups.items())


def file_rows(drafts: Drafts) -> Work:
    """A corpus of whole files. Drafts of the same file that follow each other share one decoding."""

    def jobs(inputs: Inputs) -> Iterator[list[Draft | Dropped]]:
        by_file = itertools.groupby(drafts(inputs), lambda each: each.file if isinstance(each, Draft) else id(each))
        yield from (list(group) for _, group in by_file)

    return Work(jobs, make_files)


def make_files(job: list[Draft | Dropped], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Measure the one file of all drafts of ``job`` and describe them."""
    measured = functools.cache(seconds_of)

    def row(draft: Draft) -> Iterator[CorpusRow]:
        assert draft.file is not None
        stored = Stored(draft.file.name, file=draft.file, size=draft.file.stat().st_size)
        seconds = None if recipe.text_type == "none" else measured(draft.file)
        yield CorpusRow(row_fields(recipe, draft, seconds), stored)

    yield from each_row(job, lambda draft: (draft.unique_id_1, draft.unique_id_2), row)


def hub_rows(draft: DraftOf, encode: bool = False, block: int = BLOCK, per_batch: int = PER_BATCH) -> Work:
    """A corpus of rows of the Hub; ``draft`` turns one record into a row's texts.

    Their audio (``recipe.audio``) keeps its bytes; ``encode``: it is saved as mono WAV at 16 kHz, named after the
    row's first id.
    """

    def jobs(inputs: Inputs) -> Iterator[RowRange]:
        for split, rows in inputs.rows.items():
            count = len(rows) if inputs.options.limit is None else min(len(rows), inputs.options.limit)
            for start in range(0, count, block):
                yield split, start, min(start + block, count)

    def make(job: RowRange, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
        split, start, stop = job
        rows = inputs.rows[split]

        def row(number: int) -> Iterator[CorpusRow | Dropped]:
            record = rows[number]
            made = draft(record, inputs.options)
            if isinstance(made, Dropped):
                yield made
                return
            cell = record[recipe.audio]
            data = cell_bytes(cell, inputs.allowed[split])
            name = Path(cell.get("path") or f"{split}_{number}").name
            seconds: float | None = None
            if encode:
                samples = read_mono(data, name)
                stored, seconds = encoded(f"{made.unique_id_1}.wav", samples), samples.size / RATE
            else:
                stored = Stored(name, hub_row=(split, number), size=len(data))
                seconds = None if recipe.text_type == "none" else seconds_of(data, name)
            yield CorpusRow(row_fields(recipe, made, seconds), stored, split)

        # a record that cannot be read has no ids yet, so that its place stands for them
        yield from each_row(range(start, stop), lambda number: (f"{split} row {number}", ""), row)

    return Work(jobs, make, per_batch)


def cell_bytes(cell: UpstreamRecord | None, roots: Sequence[Path]) -> bytes:
    """Encoded audio of an undecoded cell, whose path is followed inside ``roots`` only.

    Raises :class:`UserError` if it is empty, or its file is not there or somewhere else.
    """
    if cell is None:
        raise UserError("the audio cell is empty")
    data = cell.get("bytes")
    if data is None and cell.get("path"):
        path, _ = cell_source(cell, roots)
        data = path.read_bytes() if isinstance(path, Path) and path.is_file() else None
    if not data:
        raise UserError(f"the audio cell {cell.get('path')!r} holds no bytes")
    return bytes(data)


def encoded(name: str, audio: Any) -> Stored:
    """Audio to be saved: samples ``(n,)`` or ``(channels, n)`` as 16-bit WAV at 16 kHz, or a file's bytes."""
    data = audio if isinstance(audio, bytes) else encode_wav(audio)
    return Stored(name.replace("/", "_"), data=data, size=len(data))
