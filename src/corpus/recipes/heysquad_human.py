"""HeySQuAD: questions about a paragraph, spoken by people. An instruction set: the question is in the audio."""

from __future__ import annotations

from src.corpus.recipe import Draft, HubRows, Options, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import hub_rows
from src.corpus.rows.tables import filled


def draft(record: UpstreamRecord, options: Options) -> Draft:
    """Columns of one upstream row."""
    fields = {name: record[name] for name in ("question", "context", "id", "is_impossible")}
    question = filled(record["question"], "question")
    return Draft(str(record["id"]), str(record["is_impossible"]), question, fields)


RECIPE = Recipe(
    name="heysquad_human",
    title="HeySQuAD (human)",
    sources=(HubRows("yijingwu/HeySQuAD_human", "2a9aff6032a76185b98eff703144a2a896313e49", splits=None),),
    work=hub_rows(draft),
    text_type="none",
    columns=columns("audio | question | context | id | is_impossible | unique_id_1 | unique_id_2 | dataset_index"),
    types={"is_impossible": "bool_"},
)
