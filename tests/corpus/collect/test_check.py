"""The check after collecting names rows by their ids."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.common.paths import raw_dir
from src.corpus.collect.build import CollectSettings, collect
from src.corpus.collect.check import check_raw_set, wrong_description
from tests.support.toy_corpus import RECIPE, write_toy
from tests.support.upstream.writing import audio


@pytest.mark.parametrize(
    ("description", "duration", "reason"),
    [
        ("[00:00-00:02] T (duration: 2s, a: 1, b: 2)", 2.5, ""),
        ("[00:00-00:02] T (duration: 2s, b: 2)", 2.5, ""),
        ("[00:00-61:01] T (brackets) (duration: 3661s)", 3661.0, ""),
        ("[00:00-00:01, the first speaker] x [00:01-00:02, the second speaker] y (duration: 2s)", 2.0, ""),
        ("[00:00-00:03] T (duration: 2s)", 2.0, "says 00:03, its duration is 00:02"),
        ("[00:00-00:02] T (duration: 3s)", 2.0, "does not end in '(duration: 2s"),
        ("[00:00-00:02] T (duration: 2s", 2.0, "does not end in"),
        ("T (duration: 2s)", 2.0, "does not begin with"),
        ("[00:00-00:02] T (duration: 2s, b: 2, a: 1)", 2.0, "before a key"),
        ("[00:00-00:02] T (duration: 2s x)", 2.0, "no comment"),
        ("[00:00-00:00] T (duration: 0s)", 0.0, "has duration 0.0"),
    ],
)
def test_the_grammar_of_descriptions(description: str, duration: float, reason: str) -> None:
    assert reason in wrong_description(description, duration, ("A", "b"))
    assert bool(wrong_description(description, duration, ("A", "b"))) == bool(reason)


def change(change_row: Any, **features: Any) -> list[str]:
    """Problems of the toy corpus after a change of its rows."""
    from datasets import Audio, DatasetDict, load_from_disk

    folder = raw_dir("toy")
    rows = load_from_disk(str(folder))["train"].cast_column("audio", Audio(decode=False))
    changed = rows.map(change_row, load_from_cache_file=False).cast_column("audio", Audio(sampling_rate=16000))
    DatasetDict({"train": changed}).save_to_disk(str(folder.with_name("changed")))
    found = check_raw_set(RECIPE, folder.with_name("changed"), -1)
    shutil.rmtree(folder.with_name("changed"))
    return found


def test_problems_name_the_rows(tmp_path: Path, data_root: Path) -> None:
    write_toy(tmp_path, 5)
    collect(RECIPE, CollectSettings(0, tmp_path))
    assert change(lambda row: row) == []

    def only_third(**values: Any) -> Any:
        return lambda row: {**row, **values} if row["unique_id_2"] == "002" else row

    assert change(only_third(dataset_index=7)) == ["toy/train: dataset_index of row 2 is 7; expected 2"]
    (problem,) = change(only_third(unique_id_2="003"))
    assert "1 rows are not before the next by their ids, or have the same: (00, 003)" in problem
    (problem,) = change(only_third(audio_description="x"))
    assert "1 rows with a wrong text: (00, 002) does not end in" in problem
    (problem,) = change(only_third(audio={"bytes": b"RIFF", "path": "c.wav"}))
    assert "1 of 5 rows decoded: (00, 002) c.wav" in problem
    (problem,) = change(only_third(audio={"bytes": audio(0.6), "path": "c.wav"}))
    assert "(00, 002) states 0.520 s, decodes to 0.600 s" in problem
    other = dataclasses.replace(RECIPE, columns=(*RECIPE.columns, "more"))
    assert "columns are audio_description" in check_raw_set(other, raw_dir("toy"))[0]
