"""Clotho: sounds with five captions each, development split."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_44, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import entry, filled, table

CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
BASE = "https://zenodo.org/records/3490684/files"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """Five rows for each file."""
    tags: dict[str, str] = {}
    for row in table(inputs.path("metadata.csv"), needs=("file_name", "keywords"), latin=True):
        tags.setdefault(row["file_name"], row["keywords"].replace(";", "/"))
    audio = inputs.path("development")

    def draft(cell: tuple[str, str, str]) -> Iterator[Draft]:
        name, caption, text = cell
        keywords = filled(entry(tags, name, "metadata.csv"), "keywords")
        fields = {"tags": keywords, "file_name": name, "caption_id": caption}
        yield Draft(name, caption, filled(text, caption).strip(), fields, audio / name)

    rows = table(inputs.path("captions.csv"), needs=("file_name", *CAPTIONS), latin=True)
    cells = ((row["file_name"], caption, row[caption]) for row in rows for caption in CAPTIONS)
    yield from each_row(cells, lambda cell: cell[:2], draft)


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
