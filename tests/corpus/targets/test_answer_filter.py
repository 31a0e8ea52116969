"""Split indexes after the answer-length filter."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from src.common.errors import UserError
from src.common.naming import ResponseName
from src.common.paths import indexes_dir, indexes_filtered_dir, responses_dir
from src.corpus.targets.answer_filter import LengthLimits, default_limits, filter_by_answer
from src.dataset.splits import find_split_indexes

NAME = "mini_rephrased_8_tiny_16"
STATUS = ["ok", "ok", "ok", "no_answer", "ok", "betrays"]
TOKENS = [9, 10, 20, 15, 21, 15]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    columns = {"dataset_index": list(range(6)), "status": STATUS, "num_tokens": TOKENS}
    DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(str(responses_dir("tiny", NAME)))
    return tmp_path


def save_indexes(folder: Path, **splits: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        np.save(folder / f"{split}_indexes.npy", np.array(rows))


def test_rows_are_dropped_counted_and_listed(root: Path) -> None:
    save_indexes(indexes_dir("mini"), train=[4, 2, 1, 0, 3], validation=[5, 77])
    counts = filter_by_answer("mini", NAME, LengthLimits(10, 20))
    assert counts == {
        "train": {"before": 5, "kept": 2, "dropped": {"no_answer": 1, "too_long": 1, "too_short": 1}},
        "validation": {"before": 2, "kept": 0, "dropped": {"betrays": 1, "missing": 1}},
    }
    folder = indexes_filtered_dir("mini") / "tiny" / NAME
    assert np.load(folder / "train_indexes.npy").tolist() == [1, 2]
    listed = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert {"split": "train", "dataset_index": 3, "reason": "no_answer"} in listed and len(listed) == 5


def test_training_finds_the_filtered_indexes(root: Path) -> None:
    save_indexes(indexes_dir("mini"), train=[0, 1, 2, 3, 4], validation=[5])
    filter_by_answer("mini", NAME, LengthLimits(10, 20))
    found = find_split_indexes("mini", ResponseName.parse(NAME), "train")
    assert found is not None and found.keys.tolist() == [1, 2]


def test_the_audio_filters_indexes_are_the_base(root: Path) -> None:
    save_indexes(indexes_dir("mini"), train=[0, 1, 2], validation=[3])
    save_indexes(indexes_filtered_dir("mini"), train=[2], validation=[3])
    assert filter_by_answer("mini", NAME, LengthLimits(10, 20))["train"]["before"] == 1


def test_without_indexes_all_rows_are_train(root: Path) -> None:
    counts = filter_by_answer("mini", NAME, LengthLimits(10, 20))
    assert counts["train"]["kept"] == 2 and list(counts) == ["train"]


def test_limits() -> None:
    assert default_limits("full") == LengthLimits(100, 612)
    assert default_limits("mini").tokens_max < 612
    with pytest.raises(UserError, match="tokens_min <= tokens_max"):
        LengthLimits(20, 10)


def test_a_set_without_status_is_refused(root: Path) -> None:
    other = "other_tiny_16"
    DatasetDict({"train": Dataset.from_dict({"dataset_index": [0]})}).save_to_disk(str(responses_dir("tiny", other)))
    with pytest.raises(UserError, match="no column status and num_tokens"):
        filter_by_answer("other", other, LengthLimits())
