"""Clotho: sounds with five captions each, development split."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.collect.files import file_rows, table
from src.corpus.recipe import WAV_44, Draft, Inputs, Recipe, columns, web

CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
BASE = "https://zenodo.org/records/3490684/files"


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """Five rows for each file."""
    tags: dict[str, str] = {}
    for row in table(inputs.path("metadata.csv"), needs=("file_name", "keywords")):
        tags.setdefault(row["file_name"], row["keywords"].replace(";", "/"))
    audio = inputs.path("development")
    for row in table(inputs.path("captions.csv"), needs=("file_name", *CAPTIONS)):
        name = row["file_name"]
        for caption in CAPTIONS:
            about = {"tags": tags[name], "file_name": name, "caption_id": caption}
            yield Draft(name, caption, row[caption].strip(), about, audio / name)


RECIPE = Recipe(
    name="clotho",
    title="Clotho v1 (development)",
    sources=(
        web(f"{BASE}/clotho_audio_development.7z?download=1", "development"),
        web(f"{BASE}/clotho_captions_development.csv?download=1", "captions.csv", name="captions.csv"),
        web(f"{BASE}/clotho_metadata_development.csv?download=1", "metadata.csv", name="metadata.csv"),
    ),
    work=file_rows(drafts),
    text_type="caption",
    description=("tags",),
    columns=columns(
        "audio_description | duration | text | tags | audio | file_name | unique_id_1 | caption_id | "
        "unique_id_2 | dataset_index"
    ),
    rows=14465,
    hours=90.21,
    gb_per_hour=WAV_44,
)
