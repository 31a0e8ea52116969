"""MUCS 2021 (https://www.openslr.org/104/): Hindi and Bengali that switch to English, cut from recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.corpus.recipe import WAV_16, CorpusRow, Draft, Dropped, Inputs, Recipe, Work, columns, row_fields, web
from src.corpus.rows.audio import RATE, Cuts, to_rate
from src.corpus.rows.make import each_row, encoded, grouped
from src.corpus.rows.tables import entry, lines, number

LANGUAGES = ("Hindi-English", "Bengali-English")

TimedText = tuple[str, str, float, float]
"""Id, text, start and end in seconds."""


@dataclass(frozen=True)
class Recording:
    """One file and its utterances."""

    path: Path
    language: str
    utterances: tuple[TimedText, ...]


def jobs(inputs: Inputs) -> Iterator[Recording | Dropped]:
    """Recordings of both language pairs, in the order in which the segments name them."""
    for language in LANGUAGES:
        root = inputs.path(f"{language}/train")
        segments, texts = (
            lines(root / "transcripts" / name, without_unended=inputs.options.as_published)
            for name in ("segments", "text")
        )
        said = {name: text for name, *text in (line.split(maxsplit=1) for line in texts)}

        def utterance(segment: str, said: dict[str, list[str]] = said) -> Iterator[tuple[str, TimedText]]:
            name, recording, *_, start, end = segment.split()
            text = "".join(entry(said, name, "the list of texts")).strip()
            yield recording, (name, text, number(start, "the start"), number(end, "the end"))

        for found in grouped(each_row(segments, lambda line: (line.split()[0], ""), utterance)):
            yield found if isinstance(found, Dropped) else Recording(root / f"{found[0]}.wav", language, found[1])


def make(job: Recording, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Cut the utterances out of their recording, which is opened once."""
    cuts = Cuts(job.path)

    def cut(utterance: TimedText) -> Iterator[CorpusRow]:
        name, said, start, end = utterance
        samples = to_rate(cuts.read(int(start * cuts.rate), int(end * cuts.rate)), cuts.rate)
        fields = {"language": f"{job.language} code-switching", "f_id": name, "audio_name": job.path.stem}
        draft = Draft(name, job.path.stem, said, fields)
        yield CorpusRow(row_fields(recipe, draft, samples.shape[1] / RATE), encoded(f"{name}.wav", samples))

    yield from each_row(job.utterances, lambda utterance: (utterance[0], job.path.stem), cut)


RECIPE = Recipe(
    name="mucs",
    title="MUCS 2021 code-switching",
    sources=tuple(
        web(f"https://openslr.trmal.net/resources/104/{language}_train.tar.gz", f"{language}/train", into=language)
        for language in LANGUAGES
    ),
    work=Work(jobs, make, per_batch=20),
    text_type="speech",
    description=("language",),
    columns=columns(
        "audio_description | duration | text | language | audio | f_id | unique_id_1 | audio_name | "
        "unique_id_2 | dataset_index"
    ),
    rows=79431,
    hours=135.5,
    gb_per_hour=WAV_16,
    licence="CC BY-SA 4.0",
    repairs=("the last line of a list is kept, also without a line end (published: only with one)",),
)
