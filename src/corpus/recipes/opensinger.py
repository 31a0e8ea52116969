"""OpenSinger: Chinese songs, sung without accompaniment."""

from __future__ import annotations

from collections.abc import Iterator

from src.collection.sources import drive_file
from src.corpus.collect.files import file_rows, files, folders
from src.corpus.recipe import Draft, Files, Inputs, Recipe, columns

GENDERS = {"ManRaw": "Male", "WomanRaw": "Female"}


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each line of a song; its text is taken as it is, white space included."""
    for folder, gender in GENDERS.items():
        for song in folders(inputs.path(f"OpenSinger/{folder}")):
            _, _, title = song.name.partition("_")
            for wav in files(song, ".wav"):
                text = wav.with_suffix(".txt").read_text(encoding="utf-8")
                about = {"song name": title, "gender": gender, "utterance_id": wav.name}
                yield Draft(f"gender: {gender}", wav.name, text, about, wav)


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
