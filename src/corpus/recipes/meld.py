"""MELD: dialogues of a television series with emotions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from src.corpus.collect.audio import read_mono
from src.corpus.collect.conversation import COUNT, Utterance, back_to_back, concatenated, conversation_rows
from src.corpus.collect.files import attempt, table
from src.corpus.recipe import WAV_16, Dropped, Inputs, Recipe, Row, Work, columns, web

LIMIT = 20.0
NEEDS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
URL = "https://huggingface.co/datasets/declare-lab/MELD/resolve/9abc51ee7903424ffb971297608aa6d3d0de3bfa"
Turn = tuple[dict[str, str], Path]


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """Dialogues with their utterances by number."""
    root = inputs.path("MELD.Raw")
    dialogues: dict[str, list[Turn]] = {}
    for row in table(inputs.path("MELD.Raw/train_sent_emo.csv"), needs=NEEDS):
        video = root / "train_splits" / f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4"
        dialogues.setdefault(row["Dialogue_ID"], []).append((row, video))
    for name, turns in dialogues.items():
        yield name, tuple(sorted(turns, key=lambda turn: int(turn[0]["Utterance_ID"])))


def utterance(row: dict[str, str], video: Path) -> Utterance:
    """One utterance, its times not set yet."""
    text = row["Utterance"].replace("\x92", "'").strip()
    note = f"emotion: {row['Emotion']}, sentiment: {row['Sentiment']}"
    return Utterance(row["Utterance_ID"], row["Speaker"], text, 0.0, 0.0, read_mono(video), note)


def make(job: tuple[str, tuple[Turn, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    """Chunks of one dialogue; a video that cannot be decoded ends a chunk."""
    name, turns = job
    heard = (attempt((name, turn[1].name), functools.partial(utterance, *turn)) for turn in turns)
    yield from conversation_rows(
        recipe, name, back_to_back(heard), LIMIT, concatenated, lambda chunk: {"dialogue id": int(name)}
    )


RECIPE = Recipe(
    name="meld",
    title="MELD",
    sources=(web(f"{URL}/MELD.Raw.tar.gz?download=true", "MELD.Raw/train_splits", inner=("MELD.Raw/train.tar.gz",)),),
    work=Work(jobs, make, per_part=100),
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
)
