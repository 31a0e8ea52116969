"""DailyTalk: read dialogues with emotions and speech acts."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.collection.drive import DriveFolderFile
from src.corpus.collect.audio import read_mono
from src.corpus.collect.conversation import COUNT, Utterance, back_to_back, concatenated, conversation_rows
from src.corpus.collect.files import attempt, lines
from src.corpus.recipe import WAV_16, Dropped, Files, Inputs, Recipe, Row, Work, columns, web

LIMIT = 25.0
LIST = "https://raw.githubusercontent.com/keonlee9420/DailyTalk/881eb3c6c66ef0ed466895a6a5ef4d9c511bc2af"


@dataclass(frozen=True)
class Turn:
    """One utterance: its number, what the metadata says of it, its text (empty: not listed) and file."""

    key: str
    about: Mapping[str, str]
    text: str
    wav: Path


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """Dialogues that the training list names. The published rows sort the turns as texts: 1, 10, 11, 2."""
    listed = (line.split("|") for line in lines(inputs.path("dailytalk/train.txt")))
    texts = {fields[0]: fields[-2].strip() for fields in listed}
    trained = {name.split("_d")[-1] for name in texts}
    root = inputs.path("dailytalk/data")
    metadata = json.loads(inputs.path("dailytalk/metadata.json").read_text(encoding="utf-8"))
    for dialogue, turns in metadata.items():
        if dialogue not in trained:
            continue
        found = []
        for key in sorted(turns, key=None if inputs.options.as_published else int):
            name = f"{key}_{turns[key]['speaker']}_d{dialogue}"
            found.append(Turn(key, turns[key], texts.get(name, ""), root / dialogue / f"{name}.wav"))
        yield dialogue, tuple(found)


def utterance(dialogue: str, turn: Turn) -> Utterance | Dropped:
    """One utterance, its times not set yet."""
    if not turn.text:
        return Dropped(dialogue, turn.wav.name, "the training list has no text of it")
    emotion = "neutral" if turn.about["emotion"] == "no emotion" else turn.about["emotion"]
    note = f"emotion: {emotion}, speech act: {turn.about['act']}"
    return Utterance(turn.key, str(turn.about["speaker"]), turn.text, 0.0, 0.0, read_mono(turn.wav), note)


def make(job: tuple[str, tuple[Turn, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    """Chunks of one dialogue."""
    name, turns = job
    heard = (attempt((name, turn.wav.name), functools.partial(utterance, name, turn)) for turn in turns)
    yield from conversation_rows(
        recipe, name, back_to_back(heard), LIMIT, concatenated, lambda chunk: {"dialogue id": name}
    )


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
    work=Work(jobs, make, per_part=200),
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
    repairs=("turns stand in the order of their numbers (published: 1, 10, 11, 2; the second id tells the order)",),
)
