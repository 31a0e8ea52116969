"""AudioSet: labels of two million clips."""

from __future__ import annotations

import json

from src.corpus.collect.hub import hub_rows
from src.corpus.recipe import WAV_16, Draft, HubRows, Options, Recipe, Record, columns


def draft(record: Record, options: Options) -> Draft:
    """Texts of one sample of the web dataset."""
    about = record["json"]
    if isinstance(about, (str, bytes)):
        about = json.loads(about)
    fields = {"video_id": about["id"], "key": record["__key__"]}
    return Draft(str(record["__key__"]), str(about["id"]), ", ".join(about["label"]), fields)


RECIPE = Recipe(
    name="audioset",
    title="AudioSet (2M, 16 kHz)",
    sources=(HubRows("confit/audioset-16khz-wds", "4a40121a0063dd58d5d15f40f03c496eb3013906", config="2m"),),
    work=hub_rows(draft, audio="wav"),
    text_type="caption",
    description=(),
    columns=columns(
        "audio_description | text | duration | video_id | unique_id_2 | key | unique_id_1 | audio | dataset_index"
    ),
    rows=1908644,
    hours=5255.55,
    gb_per_hour=WAV_16,
    audio="wav",
)
