"""A corpus with 200 broken files of every kind among good ones: all are reported, and no good row suffers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from src.common.paths import raw_dir
from src.model.checkpoints import LoadedEmbedder
from tests.generation.conftest import free_rows, save_set
from tests.generation.test_run import World
from tests.support.broken_audio import KINDS

EACH = 10


@pytest.fixture
def world(loaded: LoadedEmbedder, llm: Path, data_root: Path) -> World:
    made = World(loaded, llm)
    made.script = lambda prompt: "hm</think>yes"
    return made


def test_200_broken_files_are_all_reported(world: World) -> None:
    good = free_rows(5)
    rows, expected = [], []
    for number in range(EACH):
        for status, make in KINDS.values():
            rows.append({"audio": make(number), "prompt": "what?", "dataset_index": len(rows)})
            expected.append(status)
        for row in good:
            rows.append({"audio": row["audio"], "prompt": row["prompt"], "dataset_index": len(rows)})
            expected.append("ok")
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(raw_dir("broken")))  # paths stay paths
    folder = world.run("broken", "strict=true", code=3)
    saved = load_from_disk(str(folder))["train"]
    kinds = [*KINDS, *["good"] * len(good)] * EACH
    found = dict(zip(saved["dataset_index"], saved["status"], strict=True))
    wrong = {kinds[place]: found[place] for place in range(len(rows)) if found[place] != expected[place]}
    assert not wrong
    assert all(bool(row["error"]) == (row["status"] != "ok") for row in saved)
    assert all((row["llm_answer"] is None) == (row["status"] != "ok") for row in saved)
    counts = json.loads((folder / "run.json").read_text())["splits"]["train"]["outcomes"]
    assert counts == dict(Counter(expected)) and sum(counts.values()) - counts["ok"] == 200


def test_texts_that_cannot_be_used_are_reported_too(world: World) -> None:
    rows = free_rows(4)
    rows[1]["prompt"] = None
    rows[2]["prompt"] = "long " * 2000
    save_set("texts", {"train": rows})
    saved = load_from_disk(str(world.run("texts")))["train"]
    assert saved["status"] == ["ok", "missing_text", "too_long", "ok"]
    assert "does not fit the context of 4096" in saved["error"][2]


def test_hours_of_audio_in_one_file_are_not_decoded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.audio import waveform
    from tests.support.tiny_corpus import wav_bytes

    rows = free_rows(3)
    rows[1]["audio"] = {"bytes": wav_bytes(200.0, 1), "path": "hours.wav"}
    save_set("long", {"train": rows})
    decoded = []
    decode = waveform.decode

    def checked(source: Any, name: str, limits: Any) -> Any:
        found = decode(source, name, limits)
        decoded.append(name)
        return found

    monkeypatch.setattr(waveform, "decode", checked)
    saved = load_from_disk(str(world.run("long")))["train"]
    assert saved["status"] == ["ok", "too_long", "ok"] and "200 s of audio" in saved["error"][1]
    assert "hours.wav" not in decoded and len(decoded) == 2
