"""OpenSinger: Chinese songs, sung without accompaniment."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import Draft, Dropped, Files, Inputs, Recipe, columns
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import files, folders
from src.download.sources import drive_file

GENDERS = {"ManRaw": "Male", "WomanRaw": "Female"}


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each line of a song; its text is taken as it is, white space included."""
    for folder, gender in GENDERS.items():
        for song in folders(inputs.path(f"OpenSinger/{folder}")):
            yield from _of_song(song, gender)


def _of_song(song: Path, gender: str) -> Iterator[Draft | Dropped]:
    draft = functools.partial(_draft, song.name.partition("_")[2], gender)
    yield from each_row(files(song, ".wav"), lambda wav: (f"gender: {gender}", wav.name), draft)


def _draft(title: str, gender: str, wav: Path) -> Iterator[Draft]:
    text = wav.with_suffix(".txt").read_text(encoding="utf-8")
    fields = {"song name": title, "gender": gender, "utterance_id": wav.name}
    yield Draft(f"gender: {gender}", wav.name, text, fields, wav)


RECIPE = Recipe(
    name="opensinger",
    title="OpenSinger",
    sources=(Files((drive_file("1EofoZxvalgMjZqzUEuEdleHIZ6SHtNuK", "OpenSinger.tar.gz"),), "OpenSinger"),),
    work=file_rows(drafts),
    text_type="speech",
    description=("song name", "gender"),
    columns=columns(
        "audio_description | duration | text | song name | gender | audio | utterance_id | unique_id_2 | "
        "unique_id_1 | dataset_index"
    ),
    rows=43075,
    hours=51.93,
)
