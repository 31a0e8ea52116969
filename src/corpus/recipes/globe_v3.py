"""GLOBE V3: English speech of many accents with measured quality."""

from __future__ import annotations

from src.corpus.recipe import Draft, Dropped, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows

KNOWN = ("common_voice_gender", "common_voice_accents", "common_voice_age")


def draft(record: UpstreamRecord, options: Options) -> Draft | Dropped:
    """Texts of one upstream row; rows whose speaker is known by prediction alone are left out."""
    ids = str(record["common_voice_path"]), str(record["common_voice_sentence_id"])
    if any(record[name] == "nan" for name in KNOWN):
        return Dropped(*ids, "gender, accent or age is predicted", error=False)
    fields = {
        "mos": record["utmos"],
        "snr": record["snr"],
        "gender": record["common_voice_gender"].title(),
        "accent": record["common_voice_accents"],
        "age": record["common_voice_age"],
        "common_voice_path": record["common_voice_path"],
        "common_voice_sentence_id": record["common_voice_sentence_id"],
    }
    return Draft(*ids, record["common_voice_sentence"].strip(), fields)


RECIPE = Recipe(
    name="globe_v3",
    title="GLOBE V3",
    sources=(HubRows("MushanW/GLOBE_V3", "0eb6d96fca5ef8fc01d0bb4dc1721d0c193f1e72"),),
    work=hub_rows(draft),
    text_type="speech",
    description=("mos", "snr", "gender", "accent", "age"),
    columns=columns(
        "snr | audio | common_voice_path | common_voice_sentence_id | audio_description | text | mos | "
        "gender | accent | age | duration | unique_id_1 | unique_id_2 | dataset_index"
    ),
    types={"mos": "float64", "snr": "float64"},
    rows=392528,
    hours=542.58,
)
