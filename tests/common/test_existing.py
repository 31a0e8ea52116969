"""Existing outputs: what is complete, and what a stage does about it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from src.common.errors import UserError
from src.common.existing import next_step, set_problem
from src.common.run_record import write_run_record

KEYS = {"train": np.arange(3), "validation": np.array([7])}


def save_set(folder: Path) -> Path:
    """A set as ``save_to_disk`` leaves it, without any record."""
    splits = {name: Dataset.from_dict({"dataset_index": keys, "prompt": ["p"] * keys.size})
              for name, keys in KEYS.items()}  # fmt: skip
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def test_a_saved_set_is_complete_whoever_made_it(tmp_path: Path) -> None:
    folder = save_set(tmp_path / "set")
    assert set_problem(folder, ["prompt"], KEYS) is None
    assert set_problem(folder, ["prompt", "audio"]) == "split train has no column audio"
    assert set_problem(folder, keys={"test": np.arange(1)}) == "no split test"
    assert (
        set_problem(folder, keys={"train": np.arange(4)}) == "split train lacks 1 of 4 rows, first dataset_index: 3"
    )
    assert (
        set_problem(folder, keys={"train": np.array([0, 1, 9])})
        == "split train lacks 1 of 3 rows, first dataset_index: 9"
    )
    Dataset.from_dict({"prompt": ["p"]}).save_to_disk(str(tmp_path / "single"))
    assert set_problem(tmp_path / "single", ["prompt"], {"train": np.arange(1)}) is None
    Dataset.from_dict({"prompt": []}).save_to_disk(str(tmp_path / "none"))
    assert set_problem(tmp_path / "none", ["prompt"]) is None


@pytest.mark.parametrize(
    ("file", "keep", "problem"),
    [
        ("dataset_dict.json", None, "no dataset_dict.json"),
        ("dataset_dict.json", 10, "no dataset_dict.json"),
        ("validation/state.json", None, "split validation: state.json is missing or broken"),
        ("train/data-00000-of-00001.arrow", None, "split train: data-00000-of-00001.arrow cannot be read"),
        ("train/data-00000-of-00001.arrow", 300, "split train: data-00000-of-00001.arrow cannot be read"),
        ("train/data-00000-of-00001.arrow", 0, "split train: data-00000-of-00001.arrow cannot be read"),
    ],
)
def test_a_copy_that_was_cut_off_is_not_complete(tmp_path: Path, file: str, keep: int | None, problem: str) -> None:
    path = save_set(tmp_path / "set") / file
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    assert (set_problem(tmp_path / "set", ["prompt"], KEYS) or "").startswith(problem)


def test_what_a_stage_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alarm")
    folder = tmp_path / "set"
    assert next_step("raw set x", folder, "not there") == "write"
    folder.mkdir()
    assert next_step("raw set x", folder, "empty") == "write"
    (folder / "data.arrow").write_bytes(b"theirs")
    assert next_step("raw set x", folder, None) == "skip"
    assert f"raw set x: {folder} exists; skipped (--overwrite replaces it)" in caplog.text
    expected = r"not complete \(no listing\)\. Nothing is changed\. Pass --overwrite .*, or choose another --name"
    with pytest.raises(UserError, match=rf"raw set x: .*/set exists, .* {expected}"):
        next_step("raw set x", folder, "no listing", other_name="choose another --name")
    assert next_step("raw set x", folder, "no listing", overwrite=True) == "write"
    assert (folder / "data.arrow").read_bytes() == b"theirs"
    write_run_record(folder, {"made": "here"})
    assert next_step("raw set x", folder, "no listing") == "resume"
    assert next_step("raw set x", folder, "no listing", ours=False, overwrite=True) == "write"
