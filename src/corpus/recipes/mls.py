"""Multilingual LibriSpeech (https://www.openslr.org/94/): audio books in seven languages besides English."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import entry, lines, speaker_table

URL = "https://dl.fbaipublicfiles.com/mls"
LANGUAGES = ("german", "dutch", "french", "spanish", "italian", "portuguese", "polish")


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each utterance of the training sets."""
    for language in LANGUAGES:
        yield from _of_language(inputs, language)


def _of_language(inputs: Inputs, language: str) -> Iterator[Draft | Dropped]:
    root = inputs.path(f"{language}/mls_{language}_opus")
    genders = speaker_table(root / "metainfo.txt", "SPEAKER", inputs.options.as_published)

    def draft(line: str) -> Iterator[Draft]:
        name, text = line.split("\t")
        speaker, book, _ = name.split("_")
        fields = {"gender": entry(genders, speaker, "metainfo.txt"), "utterance_id": name, "language": language}
        opus = root / "train" / "audio" / speaker / book / f"{name}.opus"
        yield Draft(language, name, text.strip(), fields, opus)

    listed = lines(root / "train" / "transcripts.txt", without_last=inputs.options.as_published)
    yield from each_row(listed, lambda line: (language, line.split("\t")[0]), draft)


RECIPE = Recipe(
    name="mls",
    title="Multilingual LibriSpeech",
    sources=tuple(
        web(f"{URL}/mls_{language}_opus.tar.gz", f"{language}/mls_{language}_opus", into=language)
        for language in LANGUAGES
    ),
    work=file_rows(drafts),
    text_type="speech",
    description=("gender",),
    columns=columns(
        "audio_description | duration | text | gender | audio | utterance_id | unique_id_2 | language | "
        "unique_id_1 | dataset_index"
    ),
    rows=1445335,
    hours=6026.98,
    gb_per_hour=0.016,
    licence="CC BY 4.0",
    repairs=(
        "the last line of each list is kept (7 rows more; published: it is not read, blank or not)",
        "a speaker of unknown gender is left out (published: female)",
    ),
)
