"""Saved sets: streamed in shards, and the old one or the new one whenever the process ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Features, Value, load_from_disk

from src.common import files
from src.dataset import writer
from src.dataset.writer import move_in, write_set

FEATURES = Features({"dataset_index": Value("int64"), "text": Value("string")})


class Killed(BaseException):
    """The process ends here."""


def tables(text: str, count: int = 3) -> Iterator[pa.Table]:
    for number in range(count):
        yield pa.table({"text": [text], "dataset_index": [number]})


def write(folder: Path, text: str) -> None:
    write_set(folder, {"train": (FEATURES, tables(text)), "validation": (FEATURES, tables(text, 1))})


def texts(folder: Path) -> set[str]:
    saved = load_from_disk(str(folder))
    assert {split: len(rows) for split, rows in saved.items()} == {"train": 3, "validation": 1}
    return {text for rows in saved.values() for text in rows["text"]}


def kill_after(patch: pytest.MonkeyPatch, steps: int, exchange: bool) -> None:
    """End the process at the file operation after ``steps`` of them."""
    count = iter(range(steps))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if next(count, None) is None:
                raise Killed
            return call(*arguments, **options)

        return step

    patch.setattr(Path, "replace", counted(Path.replace))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    if exchange:
        patch.setattr(files, "_exchange", counted(files._exchange))


def test_tables_become_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 1)
    write(tmp_path / "set", "a")
    assert texts(tmp_path / "set") == {"a"} and len(list((tmp_path / "set/train").glob("*.arrow"))) == 3


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_step_leaves_the_old_set_or_the_new_one(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    left: list[str] = []
    for steps in range(30):
        shutil.rmtree(tmp_path, ignore_errors=True)
        write(folder, "old")
        with monkeypatch.context() as patch:
            kill_after(patch, steps, exchange)
            try:
                write(folder, "new")
                break
            except Killed:
                pass
        files.recover(folder)
        left += texts(folder)
        write(folder, "again")
        assert texts(folder) == {"again"}
    assert texts(folder) == {"new"} and left[0] == "old" and left[-1] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("exchange", [True, False])
def test_p6_a_kill_while_splits_move_into_a_folder_loses_none(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two moves left a listed split missing (answers, responses, raw sets)."""
    folder, fresh = tmp_path / "answers", tmp_path / "answers" / ".assembling"
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    replaced = 0
    for steps in range(30):
        shutil.rmtree(tmp_path, ignore_errors=True)
        write(folder, "old")
        (folder / "run.json").write_text("{}")
        write(fresh, "new")
        with monkeypatch.context() as patch:
            kill_after(patch, steps, exchange)
            try:
                move_in(fresh, folder)
                replaced = steps
                break
            except Killed:
                pass
        if not exchange:  # without the system call, the next writer brings the split back
            for split in ("train", "validation"):
                files.recover(folder / split)
        assert texts(folder) <= {"old", "new"} and (folder / "run.json").exists()
    assert replaced > 2 and texts(folder) == {"new"}
