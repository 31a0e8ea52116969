"""A corpus of a few generated clips on disk, with responses, in the published folder layout."""

from __future__ import annotations

import io
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.miniature.world.questions import make_question
from examples.miniature.world.scene import Event, Scene, describe
from examples.miniature.world.vocabulary import BACKGROUNDS, LOUDNESS, SOUND_NAMES
from src.common.naming import ResponseName
from src.common.paths import indexes_dir, raw_dir, responses_dir

RATE = 24000
RESPONSES = "mini_rephrased_512_llm_512"


def wav_bytes(seconds: float, seed: int, rate: int = RATE) -> bytes:
    """A tone over noise as a 16-bit mono WAV file."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    samples = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * t) + 0.05 * rng.standard_normal(t.size)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def make_rows(count: int, seed: int = 0, rates: Sequence[int] = (RATE,)) -> list[dict[str, Any]]:
    """Rows with the columns of raw set and responses together; ``dataset_index`` 0 .. count - 1.

    The clips take turns at the sampling rates ``rates``.
    """
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        seconds = round(rng.uniform(1.0, 3.0), 2)
        names = rng.sample(SOUND_NAMES, rng.randint(1, 3))
        events = tuple(Event(name, rng.choice(LOUDNESS), 0.3 * place) for place, name in enumerate(names))
        scene = Scene(events, rng.choice(BACKGROUNDS), seconds)
        question = make_question(scene, rng)
        assert question is not None
        audio = wav_bytes(seconds, seed * 1000 + index, rates[index % len(rates)])
        rows.append(
            {
                "audio": {"bytes": audio, "path": f"{index}.wav"},
                "audio_description": describe(scene),
                "unique_id_1": "scene",
                "unique_id_2": f"{index:05d}",
                "dataset_index": index,
                "duration": seconds,
                "prompt": question.text,
                "llm_answer_with_context": f"i hear {scene.sequence}.\n</think>\n\n{question.answer}",
                "llm_answer_no_context": "",
            }
        )
    return rows


RAW_COLUMNS = ("audio", "audio_description", "unique_id_1", "unique_id_2", "dataset_index", "duration")
RESPONSE_COLUMNS = (
    "dataset_index",
    "audio_description",
    "prompt",
    "llm_answer_with_context",
    "llm_answer_no_context",
)


def save_split(directory: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str], split: str = "train") -> None:
    """Save some columns of ``rows`` as a ``DatasetDict`` of one split."""
    from datasets import Audio, Dataset, DatasetDict, Features

    data = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    if "audio" in columns:
        data = data.cast(Features({**data.features, "audio": Audio(decode=False)}))
        data = data.cast_column("audio", Audio())
    DatasetDict({split: data}).save_to_disk(str(directory))


def save_raw(rows: Sequence[dict[str, Any]], name: str = "mini", split: str = "train") -> None:
    """Write the raw set below ``ALARM_DATA_ROOT``."""
    save_split(raw_dir(name), rows, RAW_COLUMNS, split)


def save_responses(
    rows: Sequence[dict[str, Any]],
    folder: str = RESPONSES,
    columns: Sequence[str] = RESPONSE_COLUMNS,
    split: str = "train",
) -> None:
    """Write a response folder below ``ALARM_DATA_ROOT``."""
    save_split(responses_dir(ResponseName.parse(folder).model, folder), rows, columns, split)


def save_indexes(directory: Path, **splits: Sequence[int]) -> None:
    """Write ``{split}_indexes.npy`` files."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, keys in splits.items():
        np.save(directory / f"{split}_indexes.npy", np.asarray(keys, dtype=np.int64))


def make_corpus(
    count: int = 40, validation: int = 8, seed: int = 0, rates: Sequence[int] = (RATE,)
) -> list[dict[str, Any]]:
    """Raw set, responses and split indexes of ``mini`` below ``ALARM_DATA_ROOT``; returns all rows."""
    rows = make_rows(count, seed, rates)
    save_raw(rows)
    save_responses(rows)
    held_out = list(range(0, count, count // validation))[:validation]
    save_indexes(indexes_dir("mini"), train=[i for i in range(count) if i not in held_out], validation=held_out)
    return rows
