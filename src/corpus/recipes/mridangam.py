"""Mridangam strokes: single hits of the South Indian drum."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_44, Draft, Inputs, Recipe, columns, web
from src.corpus.rows.make import file_rows
from src.corpus.rows.tables import files, folders

URL = "https://zenodo.org/records/4068196/files/mridangam_stroke_1.5.zip?download=1"


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each hit; the stroke is in the file's name, as in ``224030__akshaylaya__bheem-b-001.wav``."""
    for tonic in folders(inputs.path("mridangam_stroke_1.5")):
        for wav in files(tonic, ".wav"):
            stroke = wav.name.split("_")[-1].split("-")[0].title()
            fields = {"tonic": tonic.name, "stroke": stroke, "song_id": wav.name}
            yield Draft(f"tonic: {tonic.name}", wav.name, "Mridangam", fields, wav)


RECIPE = Recipe(
    name="mridangam",
    title="Mridangam Stroke 1.5",
    sources=(web(URL, "mridangam_stroke_1.5"),),
    work=file_rows(drafts),
    text_type="caption",
    description=("tonic", "stroke"),
    columns=columns(
        "audio_description | duration | text | tonic | stroke | audio | unique_id_1 | song_id | "
        "unique_id_2 | dataset_index"
    ),
    rows=6977,
    hours=0.68,
    gb_per_hour=WAV_44,
)
