"""DailyTalk: read dialogues with emotions and speech acts."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.corpus.recipe import WAV_16, CorpusRow, Dropped, Files, Inputs, Recipe, Work, columns, web
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import COUNT, Utterance, concatenated, conversation_rows
from src.corpus.rows.make import attempt, each_row
from src.corpus.rows.tables import lines, read_json
from src.download.sources import DriveFolderFile

LIMIT = 25.0
LIST = "https://raw.githubusercontent.com/keonlee9420/DailyTalk/881eb3c6c66ef0ed466895a6a5ef4d9c511bc2af"


@dataclass(frozen=True)
class DialogueTurn:
    """One utterance: its number, metadata, text (None: not listed) and file."""

    key: str
    about: Mapping[str, str]
    text: str | None
    wav: Path


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[DialogueTurn | Dropped, ...]]]:
    """Dialogues that the training list names. The published rows sort the turns as texts: 1, 10, 11, 2."""
    listed = [line.split("|") for line in lines(inputs.path("dailytalk/train.txt"))]
    texts = {fields[0]: fields[-2].strip() if len(fields) > 1 else None for fields in listed}
    trained = {name.split("_d")[-1] for name in texts}
    root = inputs.path("dailytalk/data")
    for dialogue, turns in read_json(inputs.path("dailytalk/metadata.json")).items():
        if dialogue not in trained:
            continue
        if isinstance(turns, dict):
            order = sorted(turns, key=None if inputs.options.as_published else _place)
            yield dialogue, tuple(_turns(dialogue, {key: turns[key] for key in order}, texts, root / dialogue))
        else:
            yield dialogue, (Dropped(dialogue, "", f"its metadata is {turns!r}, expected turns"),)


def _turns(
    dialogue: str, turns: Mapping[str, Any], texts: Mapping[str, str | None], folder: Path
) -> Iterator[DialogueTurn | Dropped]:
    def turn(key: str) -> Iterator[DialogueTurn]:
        name = f"{int(key)}_{turns[key]['speaker']}_d{dialogue}"
        yield DialogueTurn(key, turns[key], texts.get(name), folder / f"{name}.wav")

    yield from each_row(turns, lambda key: (dialogue, key), turn)


def _place(key: str) -> tuple[int, str]:
    """Turns by number; keys that are none stand at the end."""
    return (int(key), "") if key.isdecimal() else (sys.maxsize, key)


def utterance(dialogue: str, turn: DialogueTurn | Dropped, as_published: bool) -> Utterance | Dropped:
    """One utterance, its times not set yet."""
    if isinstance(turn, Dropped):
        return turn
    if turn.text is None or not (turn.text or as_published):
        return Dropped(dialogue, turn.wav.name, "the training list has no text of it")
    emotion = "neutral" if turn.about["emotion"] == "no emotion" else turn.about["emotion"]
    note = f"emotion: {emotion}, speech act: {turn.about['act']}"
    return Utterance(turn.key, str(turn.about["speaker"]), turn.text, 0.0, 0.0, read_mono(turn.wav), note)


def make(
    job: tuple[str, tuple[DialogueTurn | Dropped, ...]], inputs: Inputs, recipe: Recipe
) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one dialogue."""
    name, turns = job
    as_published = inputs.options.as_published
    utterances = (
        attempt((name, _file(turn)), functools.partial(utterance, name, turn, as_published)) for turn in turns
    )
    fields = {"dialogue id": name}
    yield from conversation_rows(
        recipe, name, utterances, LIMIT, concatenated, lambda chunk: fields, back_to_back=True
    )


def _file(turn: DialogueTurn | Dropped) -> str:
    return turn.unique_id_2 if isinstance(turn, Dropped) else turn.wav.name


RECIPE = Recipe(
    name="dailytalk",
    title="DailyTalk",
    sources=(
        Files(
            (
                DriveFolderFile(
                    "https://drive.google.com/drive/folders/1WRt-EprWs-2rmYxoWYT9_13omlhDHcaL", "dailytalk.zip"
                ),
            ),
            "dailytalk/data",
        ),
        web(f"{LIST}/preprocessed_data/DailyTalk/train_frame.txt", "dailytalk/train.txt", "train.txt", "dailytalk"),
    ),  # fmt: skip
    work=Work(jobs, make, per_batch=200),
    text_type="speech",
    description=(COUNT,),
    columns=columns(
        "audio_description | the number of speakers | duration | text | audio | dialogue id | unique_id_1 | "
        "joint_f_id | unique_id_2 | dataset_index"
    ),
    types={COUNT: "int64"},
    rows=3736,
    hours=20.57,
    gb_per_hour=WAV_16,
    licence="CC BY-SA 4.0",
    repairs=(
        "turns stand in the order of their numbers (published: 1, 10, 11, 2; the second id tells the order)",
        "a turn whose text is empty is left out and ends its chunk (published: an empty text)",
    ),
)
