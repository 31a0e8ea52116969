"""SingMOS: real and synthesised singing, rated by people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from src.corpus.recipe import Draft, Dropped, HubFiles, Inputs, Recipe, columns
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import number, read_json

KINDS = {
    "svs": "Singning Voice Synthesis",  # spelt as published
    "svc": "Singing Voice Conversion",
    "vocoder": "Vocoder",
    "gt": "Not generated",
}


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each recording of the training list."""
    scores, splits, systems = (read_json(inputs.path(f"info/{name}.json")) for name in ("score", "split", "sys_info"))
    wavs = inputs.path("wavs")
    missing = math.nan if inputs.options.as_published else None

    def draft(name: str) -> Iterator[Draft]:
        rated = scores["utterance"][name]
        system = rated["sys_id"]
        kind = KINDS.get(systems[system]["type"], systems[system]["type"])
        fields = {
            "mos": round(number(rated["score"]["mos"], "mos", missing), 2),
            "real or synthesized": "Real" if kind == KINDS["gt"] else "Synthesized",
            "type of generative algorithm": kind,
            "f_id": name,
            "system_id": system,
        }
        yield Draft(str(name), str(system), "Singing", fields, wavs / f"{name}.wav")

    yield from each_row(splits["singmos"]["train"], lambda name: (name, ""), draft)


RECIPE = Recipe(
    name="singmos",
    title="SingMOS",
    sources=(HubFiles("TangRain/SingMOS", "a0fac9f752747a44536e1df3be9ecd260a947d5e", "info/split.json"),),
    work=file_rows(drafts),
    text_type="caption",
    description=("mos", "real or synthesized", "type of generative algorithm"),
    columns=columns(
        "audio_description | duration | text | mos | real or synthesized | type of generative algorithm | "
        "audio | f_id | unique_id_1 | system_id | unique_id_2 | dataset_index"
    ),
    types={"mos": "float64"},
    rows=3238,
    hours=4.63,
    repairs=("a song without a score is left out (published: `nan`)",),
)
