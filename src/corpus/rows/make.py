"""From drafts to rows: of whole files, and of Hugging Face data sets whose audio stays encoded.

A row that fails is dropped with its reason and the others go on; :func:`attempt` and :func:`each_row` see to it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from src.audio.decode import cell_source
from src.audio.roots import audio_roots, roots_of
from src.common.errors import UserError
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
from src.corpus.rows.audio import encode_wav, seconds_of

S = TypeVar("S")
T = TypeVar("T")
Drafts = Callable[[Inputs], Iterable["Draft | Dropped"]]
DraftOf = Callable[[UpstreamRecord, Options], "Draft | Dropped"]
RowRange = tuple[str, int, int]
BLOCK, PER_BATCH = 200, 5
"""Rows of one job over Hub rows, and jobs of a batch."""


def attempt(ids: tuple[str, str], make: Callable[[], T | Dropped]) -> T | Dropped:
    """The result of ``make``; if it fails in any way, the row of these ids is dropped, with the reason."""
    try:
        return make()
    except Exception as error:  # a fault of one row or file must not stop the others
        return Dropped(*ids, reason_of(error))


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
    rows: Iterable[S], ids: Callable[[S], tuple[object, object]], make: Callable[[S], Iterable[T | Dropped]]
) -> Iterator[T | Dropped]:
    """All that ``make`` yields for every row of a table or list.

    A row with a cell that cannot be used is dropped under its ``ids``, with the reason, and the others go on: every
    recipe goes through its tables with this function.
    """
    for row in rows:
        try:
            one, two = ids(row)
            names = str(one), str(two)
        except Exception:  # the ids cannot be read either
            names = str(row)[:200], ""
        try:
            found = list(make(row))
        except Exception as error:
            found = [Dropped(*names, reason_of(error))]
        yield from found


def file_rows(drafts: Drafts) -> Work:
    """A corpus of whole files. Drafts of the same file that follow each other share one decoding."""
    return Work(functools.partial(_group_by_file, drafts), make_files)


def _group_by_file(drafts: Drafts, inputs: Inputs) -> Iterator[list[Draft | Dropped]]:
    for _, group in itertools.groupby(
        drafts(inputs), lambda each: each.file if isinstance(each, Draft) else id(each)
    ):
        yield list(group)


def make_files(job: list[Draft | Dropped], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Measure the one file of all drafts of ``job`` and describe them."""
    measured = functools.cache(seconds_of)
    for draft in job:
        if isinstance(draft, Dropped):
            yield draft
            continue
        assert draft.file is not None

        def make(draft: Draft = draft, path: Path = draft.file) -> CorpusRow:
            stored = Stored(path.name, file=path, size=path.stat().st_size)
            seconds = None if recipe.text_type == "none" else measured(path)
            return CorpusRow(row_fields(recipe, draft, seconds), stored)

        yield attempt((draft.unique_id_1, draft.unique_id_2), make)


def hub_rows(draft: DraftOf, audio: str = "audio") -> Work:
    """A corpus that keeps the Hub's audio bytes; ``draft`` turns one record into a row's texts."""
    return Work(row_ranges, functools.partial(_make_range, draft, audio), PER_BATCH)


def row_ranges(inputs: Inputs, block: int = BLOCK) -> Iterator[RowRange]:
    """Ranges ``(split, start, stop)`` of all rows, in order."""
    for split, rows in inputs.rows.items():
        count = len(rows) if inputs.options.limit is None else min(len(rows), inputs.options.limit)
        for start in range(0, count, block):
            yield split, start, min(start + block, count)


def _make_range(
    draft: DraftOf, audio: str, job: RowRange, inputs: Inputs, recipe: Recipe
) -> Iterator[CorpusRow | Dropped]:
    split, start, stop = job
    rows = inputs.rows[split]
    roots = rows_roots(rows, inputs)
    for number in range(start, stop):

        def make(number: int = number) -> CorpusRow | Dropped:
            record = rows[number]
            made = draft(record, inputs.options)
            if isinstance(made, Dropped):
                return made
            cell = record[audio]
            data = cell_bytes(cell, roots)
            name = Path(cell.get("path") or f"{split}_{number}").name
            stored = Stored(name, hub_row=(split, number), size=len(data))
            seconds = None if recipe.text_type == "none" else seconds_of(data, name)
            return CorpusRow(row_fields(recipe, made, seconds), stored, split)

        yield attempt((f"{split} row {number}", ""), make)


def rows_roots(rows: Any, inputs: Inputs) -> tuple[Path, ...]:
    """Folders in which rows of the Hub may name files: the copy they are read from, and the caches."""
    return (*roots_of(rows), *audio_roots(*inputs.roots, *(root.parent / "hub" for root in inputs.roots[:1])))


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
