"""AudioSet: labels of two million clips."""

from __future__ import annotations

import json

from src.corpus.recipe import WAV_16, Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one sample of the web dataset."""
    labels = record["json"]
    if isinstance(labels, (str, bytes)):
        labels = json.loads(labels)
    fields = {"video_id": labels["id"], "key": record["__key__"]}
    return Draft(str(record["__key__"]), str(labels["id"]), ", ".join(labels["label"]), fields)


RECIPE = Recipe(
    name="audioset",
    title="AudioSet (2M, 16 kHz)",
    sources=(HubRows("confit/audioset-16khz-wds", "4a40121a0063dd58d5d15f40f03c496eb3013906", config="2m"),),
    work=hub_rows(draft),
    text_type="caption",
    columns=columns(
        "audio_description | text | duration | video_id | unique_id_2 | key | unique_id_1 | audio | dataset_index"
    ),
    rows=1908644,
    hours=5255.55,
    gb_per_hour=WAV_16,
    audio="wav",
)
