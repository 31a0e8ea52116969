"""InstructS2S-200K: spoken conversations. An instruction set: each turn of the user is a row."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import Draft, Dropped, Files, HubRows, Inputs, Recipe, UpstreamRecord, columns
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import filled
from src.download.sources import WebFile

REPO, REVISION = "ICTNLP/InstructS2S-200K", "004320105d5ca5246e8eacc4cbf53f7f100278e8"
PARTS = tuple(
    WebFile(f"https://huggingface.co/datasets/{REPO}/resolve/{REVISION}/{name}", name)
    for name in (f"en_part_{number:02d}" for number in range(33))
)


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each turn of the user, with all that was said before it as context."""
    wavs = inputs.path("en/wav")

    def turns(record: UpstreamRecord) -> Iterator[Draft | Dropped]:
        context = ""
        for place, turn in enumerate(record["conversation"]):
            text = filled(turn["text"], "the text of a turn")
            if turn["from"] != "human":
                context += f"Assistant: {text}\n"
                continue
            fields = {"question": text, "context": context, "id": record["id"], "utterance_id": place}
            ids = str(record["id"]), str(place)
            if turn["speech"]:
                folder, name = turn["speech"].split("/")[-2:]
                yield Draft(*ids, text, fields, wavs / folder / name)
            else:
                yield Dropped(*ids, "the turn names no recording")
            context += f"User: {text}\n"

    rows = inputs.rows["train"].select_columns(["id", "conversation"])
    yield from each_row(rows, lambda record: (record["id"], ""), turns)


RECIPE = Recipe(
    name="instructs2s",
    title="InstructS2S-200K",
    sources=(Files(PARTS, "en/wav", "tar"), HubRows(REPO, REVISION)),
    work=file_rows(drafts),
    text_type="none",
    columns=columns("question | context | audio | id | utterance_id | unique_id_1 | unique_id_2 | dataset_index"),
    types={"utterance_id": "int64"},
)
