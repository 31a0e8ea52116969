"""GTZAN: half a minute of music in ten genres."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_22, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import file_rows
from src.corpus.rows.tables import files, folders

URL = "https://www.kaggle.com/api/v1/datasets/download/andradaolteanu/gtzan-dataset-music-genre-classification"
BROKEN = "jazz.00054.wav"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each recording but the one that is known to be broken."""
    for genre in folders(inputs.path("Data/genres_original")):
        for wav in files(genre, ".wav"):
            ids = f"genre: {genre.name}", wav.name
            if wav.name == BROKEN:
                yield Dropped(*ids, "known to be broken", error=False)
            else:
                yield Draft(*ids, "Music", {"genre": genre.name.title(), "song_id": wav.name}, wav)


RECIPE = Recipe(
    name="gtzan",
    title="GTZAN",
    sources=(web(URL, "Data/genres_original", name="gtzan.zip"),),
    work=file_rows(drafts),
    text_type="caption",
    description=("genre",),
    columns=columns(
        "audio_description | duration | text | genre | audio | unique_id_1 | song_id | unique_id_2 | dataset_index"
    ),
    rows=999,
    hours=8.33,
    gb_per_hour=WAV_22,
)
