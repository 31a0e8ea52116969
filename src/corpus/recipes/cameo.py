"""CAMEO: emotional speech of 13 collections in many languages."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows

SPLITS = (
    "cafe", "crema_d", "emns", "emozionalmente", "enterface", "jl_corpus", "mesd", "nemo", "oreau", "pavoque",
    "ravdess", "resd", "subesco",
)  # fmt: skip


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one upstream row."""
    fields = {
        "emotion": record["emotion"].title(),
        "gender": record["gender"].title(),
        "age": record["age"],
        "language": record["language"].title(),
        "cameo_subset": record["dataset"],
        "file_id": record["file_id"],
    }
    return Draft(str(record["dataset"]), str(record["file_id"]), record["transcription"].strip(), fields)


RECIPE = Recipe(
    name="cameo",
    title="CAMEO",
    sources=(HubRows("amu-cai/CAMEO", "38e9e968deb4636377e76b28bbb2062f92b898ab", SPLITS),),
    work=hub_rows(draft),
    text_type="speech",
    description=("emotion", "gender", "age", "language"),
    columns=columns(
        "emotion | gender | age | language | file_id | audio | audio_description | text | duration | "
        "cameo_subset | unique_id_1 | unique_id_2 | dataset_index"
    ),
    rows=41265,
    hours=41.75,
)
