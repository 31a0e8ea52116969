"""VCTK: English sentences read by speakers of many accents (release of 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import WAV_48, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import files, lines

URL = "https://datashare.ed.ac.uk/bitstream/handle/10283/2651/VCTK-Corpus.zip?sequence=2&isAllowed=y"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each text that has a recording, speaker by speaker of the table."""
    root = inputs.path("VCTK-Corpus")

    def of_speaker(line: str) -> Iterator[Draft | Dropped]:
        speaker, age, gender, accent, *region = line.split("(")[0].split()
        texts, wavs = root / "txt" / f"p{speaker}", root / "wav48" / f"p{speaker}"
        if not (texts.is_dir() and wavs.is_dir()):
            return  # texts of p315 are lost: https://github.com/pytorch/audio/issues/483
        fields = {
            "age": age,
            "accent": accent,
            "gender": "Female" if gender == "F" else "Male",
            "region": " ".join(region) or "Unknown",
            "speaker_id": speaker,
        }

        def draft(text: Path) -> Iterator[Draft]:
            said = text.read_text(encoding="utf-8").strip()
            yield Draft(speaker, text.stem, said, {**fields, "file_id": text.stem}, wavs / f"{text.stem}.wav")

        recorded = (text for text in files(texts, ".txt") if (wavs / f"{text.stem}.wav").is_file())
        yield from each_row(recorded, lambda text: (speaker, text.stem), draft)

    listed = lines(root / "speaker-info.txt", without_unended=inputs.options.as_published)[1:]
    speakers = {line.split()[0]: line for line in listed}  # of a speaker named twice the last counts, as published
    yield from each_row(speakers.values(), lambda line: (line.split()[0], ""), of_speaker)


RECIPE = Recipe(
    name="vctk",
    title="VCTK",
    sources=(web(URL, "VCTK-Corpus/wav48"),),
    work=file_rows(drafts),
    text_type="speech",
    description=("age", "accent", "gender", "region"),
    columns=columns(
        "audio_description | duration | text | age | accent | gender | region | audio | speaker_id | "
        "unique_id_1 | file_id | unique_id_2 | dataset_index"
    ),
    rows=43660,
    hours=43.43,
    gb_per_hour=WAV_48,
    licence="ODC-By 1.0",
    repairs=("the last speaker of the table is kept, also without a line end (published: only with one)",),
)
