"""OpenSinger: Chinese songs, sung without accompaniment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import Draft, Dropped, Files, Inputs, Recipe, columns
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import files, folders
from src.download.sources import drive_file

GENDERS = {"ManRaw": "Male", "WomanRaw": "Female"}


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each line of a song; its text is taken as it is, white space included."""

    def draft(wav: Path) -> Iterator[Draft]:
        song, gender = wav.parent.name.partition("_")[2], GENDERS[wav.parent.parent.name]
        fields = {"song name": song, "gender": gender, "utterance_id": wav.name}
        text = wav.with_suffix(".txt").read_text(encoding="utf-8")
        yield Draft(f"gender: {gender}", wav.name, text, fields, wav)

    songs = (song for folder in GENDERS for song in folders(inputs.path(f"OpenSinger/{folder}")))
    sung = (wav for song in songs for wav in files(song, ".wav"))
    yield from each_row(sung, lambda wav: (f"gender: {GENDERS[wav.parent.parent.name]}", wav.name), draft)


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
