"""Split indexes: the most specific folder wins, both places of answer-filtered ones count, none means native."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.common.errors import UserError
from src.common.naming import ResponseName
from src.common.paths import indexes_dir, indexes_filtered_dir
from src.dataset.response_rows import ResponseRows
from src.dataset.splits import find_split_indexes, index_folders
from tests.support.tiny_corpus import RESPONSES, make_rows, save_indexes, save_raw, save_responses

NAME = ResponseName.parse(RESPONSES)


def test_lookup_order(data_root: Path) -> None:
    folders = index_folders("mini", NAME)
    assert folders == [
        data_root / "indexes_filtered/mini/llm" / RESPONSES,
        data_root / "indexes_filtered/llm" / RESPONSES,
        data_root / "indexes_filtered/mini",
        data_root / "indexes/mini",
    ]
    assert find_split_indexes("mini", NAME, "train") is None
    for number, folder in reversed(list(enumerate(folders))):
        save_indexes(folder, train=[number + 10, number])
        found = find_split_indexes("mini", NAME, "train")
        assert found is not None and found.keys.tolist() == [number, number + 10]
        assert found.path == folder / "train_indexes.npy"


def test_answers_of_another_model_do_not_count() -> None:
    save_indexes(indexes_filtered_dir("mini") / "other" / "mini_other_512", train=[1])
    save_indexes(indexes_dir("mini"), train=[2])
    found = find_split_indexes("mini", NAME, "train")
    assert found is not None and found.keys.tolist() == [2]


def test_a_folder_without_the_split_is_an_error() -> None:
    save_indexes(indexes_filtered_dir("mini"), train=[1])
    save_indexes(indexes_dir("mini"), validation=[1])
    with pytest.raises(UserError, match=r"'validation'.*contains train_indexes\.npy but no validation_indexes\.npy"):
        find_split_indexes("mini", NAME, "validation")


@pytest.mark.parametrize("values", [np.array([[1]]), np.array([1.5]), np.array([1, 1])])
def test_unusable_indexes(values: np.ndarray) -> None:
    indexes_dir("mini").mkdir(parents=True)
    np.save(indexes_dir("mini") / "train_indexes.npy", values)
    with pytest.raises(UserError, match=r"train_indexes\.npy"):
        find_split_indexes("mini", NAME, "train")


def test_file_that_is_no_array() -> None:
    indexes_dir("mini").mkdir(parents=True)
    (indexes_dir("mini") / "train_indexes.npy").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a numpy index file"):
        find_split_indexes("mini", NAME, "train")


def test_native_split_without_indexes() -> None:
    rows = make_rows(4)
    save_raw(rows, split="validation")
    save_responses(rows, split="validation")
    assert len(ResponseRows(RESPONSES, split="validation")) == 4
    with pytest.raises(UserError, match="has no split 'train'; it has validation"):
        ResponseRows(RESPONSES)
