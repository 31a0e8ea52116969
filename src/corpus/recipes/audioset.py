"""AudioSet: labels of two million clips."""

from __future__ import annotations

import json

from src.corpus.collect.hub import hub_rows
from src.corpus.recipe import Draft, HubRows, Options, Recipe, Record


def draft(record: Record, options: Options) -> Draft:
    """Texts of one sample of the web dataset."""
    about = record["json"]
    if isinstance(about, (str, bytes)):
        about = json.loads(about)
    fields = {"video_id": about["id"], "key": record["__key__"]}
    return Draft(str(record["__key__"]), str(about["id"]), ", ".join(about["label"]), fields)


JOBS, MAKE = hub_rows(draft, audio="wav")
RECIPE = Recipe(
    name="audioset",
    title="AudioSet (2M, 16 kHz)",
    sources=(HubRows("confit/audioset-16khz-wds", "4a40121a0063dd58d5d15f40f03c496eb3013906", config="2m"),),
    jobs=JOBS,
    make=MAKE,
    text_type="caption",
    description=(),
    columns=@COLUMNS@,
    rows=1908644,
    hours=5255.55,
    audio="wav",
    jobs_per_part=5,
)
