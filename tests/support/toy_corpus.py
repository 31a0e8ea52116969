"""A corpus of numbered files for tests of the builder: what a file holds decides what becomes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import CorpusRow, Draft, Dropped, Files, Inputs, Recipe, Work, columns
from src.corpus.rows.make import file_rows, make_files
from src.corpus.rows.tables import files
from src.download.sources import WebFile
from tests.support.upstream.writing import audio, put


def write_toy(folder: Path, count: int, **special: bytes) -> None:
    """``count`` files, ``n3=b"..."`` replaces the content of number 3."""
    for number in range(count):
        put(folder / f"toy/{number:03d}.wav", special.get(f"n{number}", audio(0.5 + number / 100)))


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each file, its first letter the same for ten of them."""
    for path in files(inputs.path("toy"), ".wav"):
        yield Draft(path.stem[:2], path.stem, "toy", {"kind": "a (b)"}, path)


def make(job: list[Draft | Dropped], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Notes each piece of work in ``made.txt`` and ends the process where the file says so."""
    draft = job[0]
    assert isinstance(draft, Draft) and draft.file is not None
    with (draft.file.parent.parent / "made.txt").open("a") as log:
        log.write(f"{draft.file.stem}\n")
    content = draft.file.read_bytes()
    if content == b"die":
        os._exit(7)
    if content == b"stop":
        raise KeyboardInterrupt
    yield from make_files(job, inputs, recipe)


RECIPE = Recipe(
    name="toy",
    title="Toy",
    sources=(Files((WebFile("http://127.0.0.1:9/toy.zip", "toy.zip"),), "toy"),),
    work=Work(file_rows(drafts).jobs, make, per_batch=4),
    text_type="caption",
    description=("kind",),
    columns=columns("audio_description | duration | text | kind | audio | unique_id_1 | unique_id_2 | dataset_index"),
    module="tests.support.toy_corpus",
)
