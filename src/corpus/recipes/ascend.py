"""ASCEND: Mandarin and English spontaneous speech that switches between both."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Texts of one upstream row."""
    language = "zh-en code-switching" if record["language"] == "mixed" else record["language"]
    fields = {"id": record["id"], "path": record["path"], "language": language}
    return Draft(str(record["id"]), str(record["path"]), record["transcription"].strip(), fields)


RECIPE = Recipe(
    name="ascend",
    title="ASCEND",
    sources=(HubRows("CAiRE/ASCEND", "737e9800ae31be9932ba8464c80366559bd28424"),),
    work=hub_rows(draft),
    text_type="speech",
    description=("language",),
    columns=columns(
        "id | path | audio | audio_description | text | duration | language | unique_id_1 | unique_id_2 | "
        "dataset_index"
    ),
    rows=9869,
    hours=8.77,
)
