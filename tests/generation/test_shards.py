"""Shards: append, read back, survive a cut line, refuse to mix settings."""

from pathlib import Path

import pytest

from src.common.errors import UserError
from src.generation.shards import Shards


def test_records_of_several_runs_are_read_together(tmp_path: Path) -> None:
    for run in range(3):
        with Shards(tmp_path, {"seed": 1}) as shards:
            assert len(shards.read()) == run
            shards.append({"key": f"train/{run}", "response": "naïve\n"})
    assert [path.name for path in sorted(tmp_path.glob(".shards/part-*"))] == [
        f"part-{run:05d}.jsonl" for run in range(3)
    ]
    assert shards.read()["train/2"]["response"] == "naïve\n"


def test_cut_line_is_dropped(tmp_path: Path) -> None:
    with Shards(tmp_path, {}) as shards:
        shards.append({"key": "a"})
        shards.append({"key": "b"})
    part = tmp_path / ".shards" / "part-00000.jsonl"
    part.write_bytes(part.read_bytes()[:-4])
    with Shards(tmp_path, {}) as shards:
        assert list(shards.read()) == ["a"]
        shards.append({"key": "b"})
        assert list(shards.read()) == ["a", "b"]


def test_other_settings_are_refused_or_replaced(tmp_path: Path) -> None:
    with Shards(tmp_path, {"seed": 1, "llm": "a"}) as shards:
        shards.append({"key": "a"})
    with pytest.raises(UserError, match=r"other settings \(seed\).*overwrite=true"):
        Shards(tmp_path, {"seed": 2, "llm": "a"})
    with Shards(tmp_path, {"seed": 1, "llm": "a"}, overwrite=True) as shards:
        assert shards.read()  # same settings: continued
    with Shards(tmp_path, {"seed": 2, "llm": "a"}, overwrite=True) as shards:
        assert not shards.read()


def test_files_of_another_program_are_refused_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(UserError, match="results of another program; give overwrite=true"):
        Shards(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_dict.json"]
    with Shards(tmp_path, {"seed": 1}, overwrite=True):
        assert [path.name for path in tmp_path.iterdir()] == [".shards"]


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.lock.LOCK_SECONDS", 0.1)
    with Shards(tmp_path, {}), pytest.raises(UserError, match="another run is writing here"):
        Shards(tmp_path, {})
    with Shards(tmp_path, {}) as shards:
        assert not shards.read()
