"""Multilingual LibriSpeech: audio books in seven languages besides English."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.collect.files import file_rows, lines, speaker_table
from src.corpus.recipe import Draft, Inputs, Recipe, columns, web

LANGUAGES = ("german", "dutch", "french", "spanish", "italian", "portuguese", "polish")


def drafts(inputs: Inputs) -> Iterator[Draft]:
    """One row for each utterance of the training sets."""
    for language in LANGUAGES:
        root = inputs.path(f"{language}/mls_{language}_opus")
        genders = speaker_table(root / "metainfo.txt", comment="SPEAKER")
        for line in lines(root / "train" / "transcripts.txt", without_last=inputs.options.as_published):
            name, _, text = line.partition("\t")
            speaker, book, _ = name.split("_")
            about = {"gender": genders[speaker], "utterance_id": name, "language": language}
            opus = root / "train" / "audio" / speaker / book / f"{name}.opus"
            yield Draft(language, name, text.strip(), about, opus)


RECIPE = Recipe(
    name="mls",
    title="Multilingual LibriSpeech",
    sources=tuple(
        web(
            f"https://dl.fbaipublicfiles.com/mls/mls_{language}_opus.tar.gz",
            f"{language}/mls_{language}_opus",
            into=language,
        )
        for language in LANGUAGES
    ),  # fmt: skip
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
    repairs=("the last utterance of each language is kept (7 rows more)",),
)
