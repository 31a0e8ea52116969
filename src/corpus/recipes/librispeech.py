"""LibriSpeech: 960 hours of English audio books."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.corpus.collect.files import file_rows, folders, lines, speaker_table
from src.corpus.recipe import Draft, Inputs, Recipe, columns, web

SUBSETS = ("train-clean-100", "train-clean-360", "train-other-500")
ROOT = "LibriSpeech"


def transcripts(subset: Path) -> Iterator[tuple[Path, str]]:
    """Audio file and text, in lower case, of every utterance below the folder of a subset."""
    for speaker in folders(subset):
        for chapter in folders(speaker):
            for line in lines(chapter / f"{speaker.name}-{chapter.name}.trans.txt"):
                name, _, text = line.partition(" ")
                yield chapter / f"{name}.flac", text.lower().strip()


def archive(subset: str) -> str:
    """Address of a subset's archive."""
    return f"https://openslr.trmal.net/resources/12/{subset}.tar.gz"


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each utterance."""
    genders = speaker_table(inputs.path(f"{ROOT}/SPEAKERS.TXT"))
    for subset in SUBSETS:
        for flac, text in transcripts(inputs.path(f"{ROOT}/{subset}")):
            speaker = flac.parent.parent.name
            about = {"gender": genders[speaker], "utterance_id": flac.stem, "speaker_id": speaker}
            yield Draft(speaker, flac.stem, text, about, flac)


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
)
