"""MELD: dialogues of a television series with emotions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from src.common.errors import UserError
from src.corpus.recipe import WAV_16, CorpusRow, Dropped, Inputs, Recipe, Work, columns, web
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import COUNT, Utterance, concatenated, conversation_rows
from src.corpus.rows.make import attempt, each_row
from src.corpus.rows.tables import MISSING, table

LIMIT = 20.0
NEEDS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
URL = "https://huggingface.co/datasets/declare-lab/MELD/resolve/9abc51ee7903424ffb971297608aa6d3d0de3bfa"
MeldTurn = tuple[int, dict[str, str], Path]
"""Number, row of the table and file."""


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[MeldTurn, ...]] | Dropped]:
    """Dialogues with their utterances by number."""
    root = inputs.path("MELD.Raw")

    def turn(row: dict[str, str]) -> list[tuple[str, MeldTurn]]:
        dialogue, number = int(row["Dialogue_ID"]), int(row["Utterance_ID"])
        return [(str(dialogue), (number, row, root / "train_splits" / f"dia{dialogue}_utt{number}.mp4"))]

    dialogues: dict[str, list[MeldTurn]] = {}
    rows = table(inputs.path("MELD.Raw/train_sent_emo.csv"), needs=NEEDS)
    for found in each_row(rows, lambda row: (row["Dialogue_ID"], row["Utterance_ID"]), turn):
        if isinstance(found, Dropped):
            yield found
        else:
            dialogues.setdefault(found[0], []).append(found[1])
    for name, turns in dialogues.items():
        yield name, tuple(sorted(turns, key=lambda turn: turn[0]))


def utterance(number: int, row: dict[str, str], video: Path, as_published: bool) -> Utterance:
    """One utterance, its times not set yet. An empty cell is ``nan`` in the published rows, but for the text."""
    shown = {name: "nan" if row[name] in MISSING else row[name] for name in ("Speaker", "Emotion", "Sentiment")}
    empty = [name for name in ("Utterance", *shown) if not row[name].strip()]
    if "Utterance" in empty or (empty and not as_published):
        raise UserError(f"{empty[0]} is empty")
    text = row["Utterance"].replace("\x92", "'").strip()
    note = f"emotion: {shown['Emotion']}, sentiment: {shown['Sentiment']}"
    return Utterance(str(number), shown["Speaker"], text, 0.0, 0.0, read_mono(video), note)


def make(job: tuple[str, tuple[MeldTurn, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one dialogue; a video that cannot be decoded ends a chunk."""
    name, turns = job
    make_utterance = functools.partial(utterance, as_published=inputs.options.as_published)
    utterances = (attempt((name, turn[2].name), functools.partial(make_utterance, *turn)) for turn in turns)
    fields = {"dialogue id": int(name)}
    yield from conversation_rows(
        recipe, name, utterances, LIMIT, concatenated, lambda chunk: fields, back_to_back=True
    )


RECIPE = Recipe(
    name="meld",
    title="MELD",
    sources=(web(f"{URL}/MELD.Raw.tar.gz?download=true", "MELD.Raw/train_splits", inner=("MELD.Raw/train.tar.gz",)),),
    work=Work(jobs, make, per_batch=100),
    text_type="speech",
    description=(COUNT,),
    columns=columns(
        "audio_description | the number of speakers | duration | text | audio | dialogue id | unique_id_1 | "
        "joint_f_id | unique_id_2 | dataset_index"
    ),
    types={COUNT: "int64", "dialogue id": "int64"},
    rows=1901,
    hours=8.71,
    gb_per_hour=WAV_16,
    licence="GPL-3.0",
    repairs=("an utterance without speaker, emotion or sentiment is left out and ends its chunk (published: `nan`)",),
)
