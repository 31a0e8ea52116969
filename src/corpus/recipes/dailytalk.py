"""DailyTalk: read dialogues with emotions and speech acts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.corpus.recipe import CorpusRow, Dropped, Files, Inputs, Recipe, Work, web
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import COUNT, Utterance, conversation_rows, dialogue_recipe
from src.corpus.rows.make import each_row
from src.corpus.rows.tables import lines, read_json
from src.download.sources import DriveFolderFile

LIMIT = 25.0
LIST = "https://raw.githubusercontent.com/keonlee9420/DailyTalk/881eb3c6c66ef0ed466895a6a5ef4d9c511bc2af"
AUDIO = "https://drive.google.com/drive/folders/1WRt-EprWs-2rmYxoWYT9_13omlhDHcaL"


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

    def turn(each: tuple[str, str, Mapping[str, str]]) -> Iterator[DialogueTurn]:
        dialogue, key, about = each
        name = f"{int(key)}_{about['speaker']}_d{dialogue}"
        yield DialogueTurn(key, about, texts.get(name), root / dialogue / f"{name}.wav")

    for dialogue, turns in read_json(inputs.path("dailytalk/metadata.json")).items():
        if dialogue not in trained:
            continue
        if isinstance(turns, dict):
            order = sorted(turns, key=None if inputs.options.as_published else _place)
            listed_turns = ((dialogue, key, turns[key]) for key in order)
            yield dialogue, tuple(each_row(listed_turns, lambda each: each[:2], turn))
        else:
            yield dialogue, (Dropped(dialogue, "", f"its metadata is {turns!r}, expected turns"),)


def _place(key: str) -> tuple[int, str]:
    """Turns by number; keys that are none stand at the end."""
    return (int(key), "") if key.isdecimal() else (sys.maxsize, key)


def make(
    job: tuple[str, tuple[DialogueTurn | Dropped, ...]], inputs: Inputs, recipe: Recipe
) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one dialogue."""
    name, turns = job

    def utterance(turn: DialogueTurn) -> Iterator[Utterance | Dropped]:
        if turn.text is None or not (turn.text or inputs.options.as_published):
            yield Dropped(name, turn.wav.name, "the training list has no text of it")
            return
        emotion = "neutral" if turn.about["emotion"] == "no emotion" else turn.about["emotion"]
        note = f"emotion: {emotion}, speech act: {turn.about['act']}"
        yield Utterance(turn.key, str(turn.about["speaker"]), turn.text, 0.0, 0.0, read_mono(turn.wav), note)

    utterances = each_row(turns, lambda turn: (name, turn.wav.name), utterance)
    yield from conversation_rows(recipe, name, utterances, LIMIT, None, lambda chunk: {"dialogue id": name})


RECIPE = dialogue_recipe(
    name="dailytalk",
    title="DailyTalk",
    sources=(
        Files((DriveFolderFile(AUDIO, "dailytalk.zip"),), "dailytalk/data"),
        web(f"{LIST}/preprocessed_data/DailyTalk/train_frame.txt", "dailytalk/train.txt", "train.txt", "dailytalk"),
    ),
    work=Work(jobs, make, per_batch=200),
    types={COUNT: "int64"},
    rows=3736,
    hours=20.57,
    licence="CC BY-SA 4.0",
    repairs=(
        "turns stand in the order of their numbers (published: 1, 10, 11, 2; the second id tells the order)",
        "a turn whose text is empty is left out and ends its chunk (published: an empty text)",
    ),
)
