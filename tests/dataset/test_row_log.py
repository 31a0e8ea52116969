"""Row logs: append, read back, survive a cut line, refuse to mix settings."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from src.common.errors import UserError
from src.dataset.row_log import ResultLog, StageLog, input_digest

KEYS = np.array([10, 11, 12, 13], dtype=np.int64)


def filled(folder: Path) -> Path:
    log = StageLog(folder, KEYS, {"seed": 0})
    for row in (2, 0):
        log.append(row, 100 + row, ok=row == 2, text=f"é{row}")
    log.close()
    return folder / "part-00000.jsonl"


def test_records_are_found_by_row_while_written_and_after(tmp_path: Path) -> None:
    log = StageLog(tmp_path, KEYS, {})
    log.append(2, 7, ok=True, text="two")
    assert log.read(2)["text"] == "two"
    log.append(1, 8, ok=False, text="one")
    log.append(2, 9, ok=False, text="two again")
    assert log.read(2)["text"] == "two again" and log.read(1)["dataset_index"] == 11
    assert not log.has(2, 7) and log.has(2, 9) and not log.has(0, 0)
    log.close()
    again = StageLog(tmp_path, KEYS, {})
    assert again.read(2)["text"] == "two again" and again.has(1, 8)
    assert again.ok.tolist() == [False] * 4
    with pytest.raises(KeyError):
        again.read(3)


def test_a_cut_last_line_is_done_again_in_a_new_part(tmp_path: Path) -> None:
    part = filled(tmp_path)
    whole = part.read_bytes()
    part.write_bytes(whole[:-7])
    log = StageLog(tmp_path, KEYS, {"seed": 0})
    assert log.has(2, 102) and not log.has(0, 100)
    log.append(0, 100, ok=False, text="é0")
    assert log.read(0)["text"] == "é0" and log.read(2)["text"] == "é2"
    log.close()
    assert part.read_bytes() == whole[:-7], "what is there is never changed"
    assert (tmp_path / "part-00001.jsonl").read_bytes() == whole.splitlines(keepends=True)[1]
    again = StageLog(tmp_path, KEYS, {"seed": 0})
    assert again.has(2, 102) and again.has(0, 100)
    again.append(3, 103, ok=True, text="é3")
    again.close()
    assert len(list(tmp_path.glob("part-*"))) == 3, "a part for each run that wrote"
    whole_log = StageLog(tmp_path, KEYS, {"seed": 0})
    assert [whole_log.read(row)["text"] for row in (2, 0, 3, 2)] == ["é2", "é0", "é3", "é2"]


@pytest.mark.parametrize("length", [0, 1, 10])
def test_nothing_but_a_cut_line(tmp_path: Path, length: int) -> None:
    part = filled(tmp_path)
    part.write_bytes(part.read_bytes()[:length])
    log = StageLog(tmp_path, KEYS, {"seed": 0})
    assert not log.ok.any()
    log.append(1, 101, ok=True)
    log.close()
    assert StageLog(tmp_path, KEYS, {"seed": 0}).ok.tolist() == [False, True, False, False]


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    part = filled(tmp_path)
    part.write_bytes(b'{"dataset_index": 1}\n' + part.read_bytes())
    with pytest.raises(UserError, match=r"part-00000.jsonl, line 1: .*--overwrite"):
        StageLog(tmp_path, KEYS, {"seed": 0})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(UserError, match=r"seed: was 0, is 1.*--overwrite"):
        StageLog(tmp_path, KEYS, {"seed": 1})


def test_a_record_of_a_row_in_a_later_part_counts(tmp_path: Path) -> None:
    filled(tmp_path)
    newer = {"dataset_index": 12, "input": 7, "ok": False, "text": "newer"}
    (tmp_path / "part-00001.jsonl").write_text(json.dumps(newer) + "\n")
    log = StageLog(tmp_path, KEYS, {"seed": 0})
    assert log.read(2)["text"] == "newer" and log.has(2, 7) and not log.ok[2] and log.has(0, 100)
    assert log.size == sum(path.stat().st_size for path in tmp_path.glob("part-*"))


def test_rows_beyond_the_limit_stay_in_the_file(tmp_path: Path) -> None:
    filled(tmp_path)
    log = StageLog(tmp_path, KEYS[:1], {"seed": 0})
    assert log.has(0, 100) and log.ok.shape == (1,)
    log.close()
    assert StageLog(tmp_path, KEYS, {"seed": 0}).has(2, 102)


def test_memory_is_a_few_bytes_a_row(tmp_path: Path) -> None:
    count, text = 20_000, "x" * 500
    lines = (json.dumps({"dataset_index": n, "input": n, "ok": True, "text": text}) + "\n" for n in range(count))
    with (tmp_path / "part-00000.jsonl").open("w") as file:
        file.writelines(lines)
    tracemalloc.start()
    log = StageLog(tmp_path, np.arange(count), {})
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert log.ok.all() and held < 25 * count and peak < 150 * count


def test_digest_tells_the_parts_apart() -> None:
    assert input_digest("ab", "c") != input_digest("a", "bc")


def test_records_of_several_runs_are_read_together(tmp_path: Path) -> None:
    for run in range(3):
        with ResultLog(tmp_path, {"seed": 1}) as results:
            assert len(results.read()) == run
            results.append({"key": f"train/{run}", "response": "naïve\n"})
    assert [path.name for path in sorted(tmp_path.glob(".shards/part-*"))] == [
        f"part-{run:05d}.jsonl" for run in range(3)
    ]
    assert results.read()["train/2"]["response"] == "naïve\n"


def test_cut_line_is_dropped(tmp_path: Path) -> None:
    with ResultLog(tmp_path, {}) as results:
        results.append({"key": "a"})
        results.append({"key": "b"})
    part = tmp_path / ".shards" / "part-00000.jsonl"
    part.write_bytes(b"damaged\n" + part.read_bytes()[:-4])
    with ResultLog(tmp_path, {}) as results:
        assert list(results.read()) == ["a"]
        results.append({"key": "b"})
        assert list(results.read()) == ["a", "b"]


def test_other_settings_are_refused_or_replaced(tmp_path: Path) -> None:
    with ResultLog(tmp_path, {"seed": 1, "llm": "a"}) as results:
        results.append({"key": "a"})
    with pytest.raises(UserError, match=r"other settings \(seed\).*overwrite=true"):
        ResultLog(tmp_path, {"seed": 2, "llm": "a"})
    with ResultLog(tmp_path, {"seed": 1, "llm": "a"}, overwrite=True) as results:
        assert results.read()  # same settings: continued
    with ResultLog(tmp_path, {"seed": 2, "llm": "a"}, overwrite=True) as results:
        assert not results.read()


def test_files_of_another_program_are_refused_or_replaced(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(UserError, match="results of another program; give overwrite=true"):
        ResultLog(tmp_path, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_dict.json"]
    with ResultLog(tmp_path, {"seed": 1}, overwrite=True):
        assert [path.name for path in tmp_path.iterdir()] == [".shards"]


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.lock.LOCK_SECONDS", 0.1)
    with ResultLog(tmp_path, {}), pytest.raises(UserError, match="another run is writing here"):
        ResultLog(tmp_path, {})
    with ResultLog(tmp_path, {}) as results:
        assert not results.read()


def test_a_log_from_before_a_setting_is_continued(tmp_path: Path) -> None:
    """The chat template was added to the settings: a log without it goes on, one of another template does not."""
    with ResultLog(tmp_path / "old", {"seed": 1}) as results:
        results.append({"key": "a"})
    with ResultLog(tmp_path / "old", {"seed": 1, "chat_template": "abc"}) as results:
        assert list(results.read()) == ["a"]
    with ResultLog(tmp_path / "new", {"seed": 1, "chat_template": "abc"}):
        pass
    for settings in ({"seed": 1, "chat_template": "other"}, {"seed": 1}):
        with pytest.raises(UserError, match=r"other settings \(chat_template\)"):
            ResultLog(tmp_path / "new", settings)
