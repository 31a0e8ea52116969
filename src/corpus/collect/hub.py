"""Rows of Hugging Face data sets: opened once, read in ranges by the workers, audio undecoded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from src.audio.decode import cell_source
from src.audio.roots import audio_roots, roots_of
from src.collection.retry import Patience, retrying
from src.common.errors import UserError
from src.corpus.collect.audio import seconds_of
from src.corpus.collect.files import attempt
from src.corpus.recipe import (
    Draft,
    Dropped,
    HubRows,
    Inputs,
    Options,
    Recipe,
    Record,
    Row,
    Stored,
    Work,
    row_fields,
)

BLOCK, PER_PART = 200, 5
"""Rows of one piece of work, and pieces of a part."""
RowRange = tuple[str, int, int]
DraftOf = Callable[[Record, Options], "Draft | Dropped"]


def open_rows(
    source: HubRows, local: Path | None, cache: Path, audio: str | None = None, patience: Patience | None = None
) -> dict[str, Any]:
    """The rows by split, ``{"train": all chosen splits in order}`` unless the source keeps its splits.

    Args:
        local: a copy of the repository, or a folder written by ``save_to_disk``, instead of the Hub.
        cache: where downloads and Arrow files of the library go.
        audio: column whose cells are to stay encoded.

    Raises :class:`UserError` naming the repository or folder if it cannot be read or lacks a split.
    """
    from datasets import DatasetDict, concatenate_datasets

    found = _load(source, local, cache, patience or Patience())
    where = str(local or f"{source.repo}@{source.revision}")
    if source.splits is None:
        chosen = dict(found)
    else:
        missing = [split for split in source.splits if split not in found]
        if missing:
            raise UserError(f"{where} has no split {', '.join(missing)}; it has {', '.join(found)}")
        parts = [found[split] for split in source.splits]
        # splits may differ in features nobody uses, so that only equal columns could be concatenated
        common = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
        chosen = {"train": concatenate_datasets([_encoded(part.select_columns(common), audio) for part in parts])}
    return {split: _encoded(rows, audio) for split, rows in DatasetDict(chosen).items()}


def _load(source: HubRows, local: Path | None, cache: Path, patience: Patience) -> Any:
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    try:
        if local is not None and any((local / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
            saved = load_from_disk(str(local))
            return {"train": saved} if isinstance(saved, Dataset) else saved
        load = functools.partial(
            load_dataset,
            str(local) if local is not None else source.repo,
            source.config,
            revision=None if local is not None else source.revision,
            cache_dir=str(cache),
            verification_mode=None if source.verify and local is None else "no_checks",
        )
        found = load() if local is not None else retrying(load, source.repo, patience)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{local or source.repo}: cannot be loaded ({_short(error)})") from error
    assert isinstance(found, DatasetDict)
    return found


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _encoded(rows: Any, audio: str | None) -> Any:
    if audio is None or audio not in rows.column_names:
        return rows
    from datasets import Audio

    return rows.cast_column(audio, Audio(decode=False))


def hub_rows(draft: DraftOf, audio: str = "audio") -> Work:
    """A corpus that keeps the hub's audio bytes; ``draft`` turns one record into a row's texts."""
    return Work(row_ranges, functools.partial(_make_range, draft, audio), PER_PART)


def row_ranges(inputs: Inputs, block: int = BLOCK) -> Iterator[RowRange]:
    """Ranges ``(split, start, stop)`` of all rows, in order."""
    for split, rows in inputs.rows.items():
        count = len(rows) if inputs.options.limit is None else min(len(rows), inputs.options.limit)
        for start in range(0, count, block):
            yield split, start, min(start + block, count)


def _make_range(draft: DraftOf, audio: str, job: RowRange, inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    split, start, stop = job
    rows = inputs.rows[split]
    roots = rows_roots(rows, inputs)
    for number in range(start, stop):

        def make(number: int = number) -> Row | Dropped:
            record = rows[number]
            made = draft(record, inputs.options)
            if isinstance(made, Dropped):
                return made
            cell = record[audio]
            data = cell_bytes(cell, roots)
            name = Path(cell.get("path") or f"{split}_{number}").name
            stored = Stored(name, hub_row=(split, number), size=len(data))
            seconds = None if recipe.text_type == "none" else seconds_of(data, name)
            return Row(row_fields(recipe, made, seconds), stored, split)

        yield attempt((f"{split} row {number}", ""), make)


def rows_roots(rows: Any, inputs: Inputs) -> tuple[Path, ...]:
    """Folders in which rows of the Hub may name files: the copy they are read from, and the caches."""
    return (*roots_of(rows), *audio_roots(*inputs.roots, *(root.parent / "hub" for root in inputs.roots[:1])))


def cell_bytes(cell: Record | None, roots: Sequence[Path]) -> bytes:
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
