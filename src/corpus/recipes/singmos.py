"""SingMOS: real and synthesised singing, rated by people."""

from __future__ import annotations

import json
from collections.abc import Iterator

from src.corpus.collect.files import file_rows
from src.corpus.recipe import Draft, HubFiles, Inputs, Recipe, columns

KINDS = {
    "svs": "Singning Voice Synthesis",  # spelt as published
    "svc": "Singing Voice Conversion",
    "vocoder": "Vocoder",
    "gt": "Not generated",
}


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each recording of the training list."""
    scores, splits, systems = (
        json.loads(inputs.path(f"info/{name}.json").read_text(encoding="utf-8"))
        for name in ("score", "split", "sys_info")
    )
    wavs = inputs.path("wavs")
    for name in splits["singmos"]["train"]:
        rated = scores["utterance"][name]
        system = rated["sys_id"]
        kind = KINDS.get(systems[system]["type"], systems[system]["type"])
        about = {
            "mos": round(float(rated["score"]["mos"]), 2),
            "real or synthesized": "Real" if kind == KINDS["gt"] else "Synthesized",
            "type of generative algorithm": kind,
            "f_id": name,
            "system_id": system,
        }
        yield Draft(str(name), str(system), "Singing", about, wavs / f"{name}.wav")


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
)
