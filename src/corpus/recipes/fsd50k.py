"""FSD50K: sound events labelled by people, training part of the development set."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_44, Draft, Dropped, Files, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import filled, table
from src.download.sources import WebFile

BASE = "https://zenodo.org/records/4060432/files"
VOLUMES = tuple(f"FSD50K.dev_audio.{ending}" for ending in ("z01", "z02", "z03", "z04", "z05", "zip"))


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each clip; labels that only its uploader gave come first. The ids are the published ones."""
    collection = inputs.path("FSD50K.metadata/collection/collection_dev.csv")
    given = {row["fname"]: row["labels"].split(",") for row in table(collection, needs=("fname", "labels"))}
    audio = inputs.path("FSD50K.dev_audio")

    def draft(row: dict[str, str]) -> Iterator[Draft]:
        labels = filled(row["labels"], "labels").split(",")
        extra = [label for label in given.get(row["fname"], []) if label and label not in labels]
        used = labels if inputs.options.as_published else extra + labels
        ids = row["fname"], "labels: " + "/".join(labels).replace("_", " ")
        fields = {"sound categories": "/".join(used).replace("_", " "), "fname": int(row["fname"])}
        yield Draft(*ids, used[0].replace("_", " "), fields, audio / f"{row['fname']}.wav")

    rows = table(inputs.path("FSD50K.ground_truth/dev.csv"), needs=("fname", "labels", "split"))
    train = (row for row in rows if row["split"] == "train")
    yield from each_row(train, lambda row: (row["fname"], row["labels"]), draft)


RECIPE = Recipe(
    name="fsd50k",
    title="FSD50K (development, train)",
    sources=(
        Files(tuple(WebFile(f"{BASE}/{name}?download=1", name) for name in VOLUMES), "FSD50K.dev_audio", "split_zip"),
        web(f"{BASE}/FSD50K.ground_truth.zip?download=1", "FSD50K.ground_truth"),
        web(f"{BASE}/FSD50K.metadata.zip?download=1", "FSD50K.metadata"),
    ),
    work=file_rows(drafts),
    text_type="caption",
    description=("sound categories",),
    columns=columns(
        "audio_description | duration | text | sound categories | audio | fname | unique_id_1 | "
        "unique_id_2 | dataset_index"
    ),
    types={"fname": "int64"},
    rows=36796,
    hours=70.39,
    gb_per_hour=WAV_44,
    licence="CC BY 4.0 (clips: by clip)",
    repairs=(
        "labels that only the uploader gave come first (published: they are left out); ids are the published ones",
    ),
)
