"""VocalSound: laughter, sighs, coughs, throat clearing, sneezes and sniffs."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from src.corpus.collect.files import file_rows, files
from src.corpus.recipe import WAV_16, Draft, Inputs, Recipe, columns, web

HEALTH = "has a cold/allergy/other health-related symptoms that might affect speech"


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """The recordings of the training speakers; about thirty are known to be broken and will be dropped."""
    with inputs.path("meta/tr_meta.csv").open(encoding="utf-8", newline="") as file:
        speakers = {row[0]: row for row in csv.reader(file) if row}
    for wav in files(inputs.path("audio_16k"), ".wav"):
        speaker = wav.name.split("_")[0]
        if speaker not in speakers:
            continue
        _, gender, age, _, _, health = speakers[speaker][:6]
        sound = wav.stem.split("_")[-1].title()
        about = {
            "age": f"{int(age) // 10 * 10}s",
            "gender": gender.title(),
            HEALTH: health.title(),
            "speaker_id": speaker,
            "file_id": wav.name,
        }
        yield Draft(speaker, wav.name, "Throat clearing" if sound == "Throatclearing" else sound, about, wav)


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
)
