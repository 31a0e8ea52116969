"""MELD: dialogues of a television series with emotions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.common.errors import UserError
from src.corpus.recipe import CorpusRow, Dropped, Inputs, Recipe, Work, web
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import COUNT, Utterance, conversation_rows, dialogue_recipe
from src.corpus.rows.make import each_row, grouped
from src.corpus.rows.tables import MISSING, table

LIMIT = 20.0
NEEDS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
URL = "https://huggingface.co/datasets/declare-lab/MELD/resolve/9abc51ee7903424ffb971297608aa6d3d0de3bfa"
MeldTurn = tuple[int, dict[str, str], Path]
"""Number, row of the table and file."""


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[MeldTurn, ...]] | Dropped]:
    """Dialogues with their utterances by number."""
    root = inputs.path("MELD.Raw")

    def turn(row: dict[str, str]) -> Iterator[tuple[str, MeldTurn]]:
        dialogue, number = int(row["Dialogue_ID"]), int(row["Utterance_ID"])
        yield str(dialogue), (number, row, root / "train_splits" / f"dia{dialogue}_utt{number}.mp4")

    rows = table(inputs.path("MELD.Raw/train_sent_emo.csv"), needs=NEEDS)
    for job in grouped(each_row(rows, lambda row: (row["Dialogue_ID"], row["Utterance_ID"]), turn)):
        yield job if isinstance(job, Dropped) else (job[0], tuple(sorted(job[1], key=lambda turn: turn[0])))


def make(job: tuple[str, tuple[MeldTurn, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one dialogue; a video that cannot be decoded ends a chunk.

    An empty cell is ``nan`` in the published rows, but for the text.
    """
    name, turns = job

    def utterance(turn: MeldTurn) -> Iterator[Utterance]:
        number, row, video = turn
        shown = {key: "nan" if row[key] in MISSING else row[key] for key in ("Speaker", "Emotion", "Sentiment")}
        empty = [key for key in ("Utterance", *shown) if not row[key].strip()]
        if "Utterance" in empty or (empty and not inputs.options.as_published):
            raise UserError(f"{empty[0]} is empty")
        # U+0092 is a control character; the byte 92 is the apostrophe of Windows-1252, which the table is made from
        text = row["Utterance"].replace("\x92", "'").strip()
        note = f"emotion: {shown['Emotion']}, sentiment: {shown['Sentiment']}"
        yield Utterance(str(number), shown["Speaker"], text, 0.0, 0.0, read_mono(video), note)

    utterances = each_row(turns, lambda turn: (name, turn[2].name), utterance)
    yield from conversation_rows(recipe, name, utterances, LIMIT, None, lambda chunk: {"dialogue id": int(name)})


RECIPE = dialogue_recipe(
    name="meld",
    title="MELD",
    sources=(web(f"{URL}/MELD.Raw.tar.gz?download=true", "MELD.Raw/train_splits", inner=("MELD.Raw/train.tar.gz",)),),
    work=Work(jobs, make, per_batch=100),
    types={COUNT: "int64", "dialogue id": "int64"},
    rows=1901,
    hours=8.71,
    licence="GPL-3.0",
    repairs=("an utterance without speaker, emotion or sentiment is left out and ends its chunk (published: `nan`)",),
)
