"""An instruction set of a few generated clips on disk, as its collector saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.common.paths import raw_dir
from tests.support.tiny_corpus import wav_bytes

COLUMNS = ("audio", "question", "context", "id", "unique_id_1", "unique_id_2", "dataset_index")


def make_questions(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows with ``dataset_index`` 0 .. count - 1; every third has no context."""
    return [
        {
            "audio": {"bytes": wav_bytes(0.3, first + number), "path": f"{first + number}.wav"},
            "question": f"what is number {first + number} called?",
            "context": "" if number % 3 == 0 else f"number {first + number} is called so.",
            "id": f"q{first + number}",
            "unique_id_1": f"q{first + number}",
            "unique_id_2": "False",
            "dataset_index": number,
        }
        for number in range(count)
    ]


def save_questions(name: str, splits: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write the raw set below ``ALARM_DATA_ROOT``."""
    from datasets import Audio, Dataset, DatasetDict, Features

    made = {}
    for split, rows in splits.items():
        data = Dataset.from_list([{column: row[column] for column in COLUMNS} for row in rows])
        data = data.cast(Features({**data.features, "audio": Audio(decode=False)}))
        made[split] = data.cast_column("audio", Audio(sampling_rate=16000))
    DatasetDict(made).save_to_disk(str(raw_dir(name)))
