"""LibriSpeech (https://www.openslr.org/12/): 960 hours of English audio books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import entry, folders, lines, speaker_table

SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500")
ROOT = "LibriSpeech"


def transcripts(subset: Path) -> Iterator[tuple[Path, str] | Dropped]:
    """Audio file and text, in lower case, of every utterance below the folder of a subset."""

    def utterances(chapter: Path) -> Iterator[tuple[Path, str]]:
        for line in lines(chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"):
            name, _, text = line.partition(" ")
            yield chapter / f"{name}.flac", text.lower().strip()

    chapters = (chapter for speaker in folders(subset) for chapter in folders(speaker))
    yield from each_row(chapters, lambda chapter: (chapter.parent.name, chapter.name), utterances)


def archive(subset: str) -> str:
    """Address of a subset's archive."""
    return f"https://openslr.trmal.net/resources/12/{subset}.tar.gz"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each utterance."""
    genders = speaker_table(inputs.path(f"{ROOT}/SPEAKERS.TXT"), as_published=inputs.options.as_published)

    def draft(utterance: tuple[Path, str]) -> Iterator[Draft]:
        flac, text = utterance
        speaker = flac.parent.parent.name
        fields = {"gender": entry(genders, speaker, "SPEAKERS.TXT"), "utterance_id": flac.stem, "speaker_id": speaker}
        yield Draft(speaker, flac.stem, text, fields, flac)

    for subset in SUBSETS:
        spoken = transcripts(inputs.path(f"{ROOT}/{subset}"))
        yield from each_row(spoken, lambda each: (each[0].parent.parent.name, each[0].stem), draft)


RECIPE = Recipe(
    name="librispeech",
    title="LibriSpeech (960 h)",
    sources=tuple(web(archive(subset), f"{ROOT}/{subset}") for subset in SUBSETS),
    work=file_rows(drafts),
    text_type="speech",
    description=("gender",),
    columns=columns(
        "audio_description | duration | text | gender | audio | utterance_id | unique_id_2 | speaker_id | "
        "unique_id_1 | dataset_index"
    ),
    rows=281241,
    hours=961.05,
    gb_per_hour=0.063,
    licence="CC BY 4.0",
    repairs=("a speaker of unknown gender is left out (published: female)",),
)
