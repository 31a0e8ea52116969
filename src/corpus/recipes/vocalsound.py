"""VocalSound: laughter, sighs, coughs, throat clearing, sneezes and sniffs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import WAV_16, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import files, filled, number

HEALTH = "has a cold/allergy/other health-related symptoms that might affect speech"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """The recordings of the training speakers; fields thirty are known to be broken and will be dropped.

    A speaker that the table names twice has two rows for each recording, of which the first is kept unless as
    published.
    """
    with inputs.path("meta/tr_meta.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        listed = [row for row in csv.reader(file) if row]
    speakers: dict[str, list[list[str]]] = {}
    for row in listed:
        speakers.setdefault(row[0], []).append(row)
    whole = all(len(row) > 2 and row[2].strip().lstrip("+-").isdecimal() for row in listed)

    def draft(each: tuple[Path, list[str]]) -> Iterator[Draft]:
        wav, (speaker, gender, age, _, _, health, *_) = each
        sound = wav.stem.split("_")[-1].title()
        fields = {
            "age": decade(age, inputs.options.as_published, whole),
            "gender": filled(gender, "gender").title(),
            HEALTH: filled(health, "health").title(),
            "speaker_id": speaker,
            "file_id": wav.name,
        }
        yield Draft(speaker, wav.name, "Throat clearing" if sound == "Throatclearing" else sound, fields, wav)

    wavs = files(inputs.path("audio_16k"), ".wav")
    recorded = ((wav, row) for wav in wavs for row in speakers.get(wav.name.split("_")[0], ()))
    yield from each_row(recorded, lambda each: (each[1][0], each[0].name), draft)


def decade(age: str, as_published: bool, whole: bool) -> str:
    """``50s`` of an age. In the published rows an empty age is ``nans``, and one that is not ``whole`` in any row of
    the table turns all of them into ``50.0s``."""
    if as_published and not whole:
        return f"{number(age, 'age', missing=math.nan) // 10 * 10}s"
    return f"{int(number(age, 'age')) // 10 * 10}s"


RECIPE = Recipe(
    name="vocalsound",
    title="VocalSound",
    sources=(web("https://www.dropbox.com/s/c5ace70qh1vbyzb/vs_release_16k.zip?dl=1", "audio_16k"),),
    work=file_rows(drafts),
    text_type="caption",
    description=("age", "gender", HEALTH),
    columns=columns(
        f"audio_description | duration | text | age | gender | {HEALTH} | audio | speaker_id | unique_id_1 | "
        "file_id | unique_id_2 | dataset_index"
    ),
    rows=15536,
    hours=18.05,
    gb_per_hour=WAV_16,
    licence="CC BY-SA 4.0",
    repairs=("a speaker without a readable age is left out (published: `nans`, and all ages as `50.0s`)",),
)
