"""AudioCaps: captions of sounds in the wild."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one upstream row."""
    fields = {name: record[name] for name in ("audiocap_id", "youtube_id")}
    return Draft(str(record["audiocap_id"]), str(record["youtube_id"]), record["caption"].strip(), fields)


RECIPE = Recipe(
    name="audiocaps",
    title="AudioCaps",
    sources=(HubRows("OpenSound/AudioCaps", "b29b3243d6ce49c2cd0d48d4b5f0701ae7969ded"),),
    work=hub_rows(draft),
    text_type="caption",
    columns=columns(
        "audiocap_id | youtube_id | audio | audio_description | text | duration | unique_id_1 | "
        "unique_id_2 | dataset_index"
    ),
    rows=45178,
    hours=123.76,
)
