"""VocalSound: laughter, sighs, coughs, throat clearing, sneezes and sniffs."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable, Iterator
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
    decades = functools.partial(
        decade, as_published=inputs.options.as_published, whole=all(_is_whole(row) for row in listed)
    )
    for wav in files(inputs.path("audio_16k"), ".wav"):
        yield from _of_file(wav, speakers.get(wav.name.split("_")[0], []), decades)


def _of_file(wav: Path, rows: list[list[str]], decades: Callable[[str], str]) -> Iterator[Draft | Dropped]:
    sound = wav.stem.split("_")[-1].title()

    def draft(row: list[str]) -> Iterator[Draft]:
        speaker, gender, age, _, _, health = row[:6]
        fields = {
            "age": decades(age),
            "gender": filled(gender, "gender").title(),
            HEALTH: filled(health, "health").title(),
            "speaker_id": speaker,
            "file_id": wav.name,
        }
        yield Draft(speaker, wav.name, "Throat clearing" if sound == "Throatclearing" else sound, fields, wav)

    yield from each_row(rows, lambda row: (row[0], wav.name), draft)


def _is_whole(row: list[str]) -> bool:
    return len(row) > 2 and row[2].strip().lstrip("+-").isdecimal()


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
        "audio_description | duration | text | age | gender | "
        "has a cold/allergy/other health-related symptoms that might affect speech | audio | speaker_id | "
        "unique_id_1 | file_id | unique_id_2 | dataset_index"
    ),
    rows=15536,
    hours=18.05,
    gb_per_hour=WAV_16,
    licence="CC BY-SA 4.0",
    repairs=("a speaker without a readable age is left out (published: `nans`, and all ages as `50.0s`)",),
)
