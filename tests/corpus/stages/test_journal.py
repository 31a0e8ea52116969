"""Append-only results: found again, safe against being killed."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from src.common.errors import UserError
from src.corpus.stages.journal import Journal, input_digest

KEYS = np.array([10, 11, 12, 13], dtype=np.int64)


def filled(folder: Path) -> Path:
    journal = Journal(folder, KEYS, {"seed": 0})
    for row in (2, 0):
        journal.append(row, 100 + row, ok=row == 2, text=f"é{row}")
    journal.close()
    return folder / "part-00000.jsonl"


def test_records_are_found_by_row_while_written_and_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path, KEYS, {})
    journal.append(2, 7, ok=True, text="two")
    assert journal.read(2)["text"] == "two"
    journal.append(1, 8, ok=False, text="one")
    journal.append(2, 9, ok=False, text="two again")
    assert journal.read(2)["text"] == "two again" and journal.read(1)["dataset_index"] == 11
    assert not journal.has(2, 7) and journal.has(2, 9) and not journal.has(0, 0)
    journal.close()
    again = Journal(tmp_path, KEYS, {})
    assert again.read(2)["text"] == "two again" and again.has(1, 8)
    assert again.ok.tolist() == [False] * 4
    with pytest.raises(KeyError):
        again.read(3)


def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path: Path) -> None:
    part = filled(tmp_path)
    whole = part.read_bytes()
    part.write_bytes(whole[:-7])
    journal = Journal(tmp_path, KEYS, {"seed": 0})
    assert journal.has(2, 102) and not journal.has(0, 100)
    journal.append(0, 100, ok=False, text="é0")
    assert journal.read(0)["text"] == "é0"
    journal.close()
    assert part.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 1, 10])
def test_nothing_but_a_torn_line(tmp_path: Path, length: int) -> None:
    part = filled(tmp_path)
    part.write_bytes(part.read_bytes()[:length])
    journal = Journal(tmp_path, KEYS, {"seed": 0})
    assert not journal.ok.any() and part.read_bytes() == b""


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    part = filled(tmp_path)
    part.write_bytes(b'{"dataset_index": 1}\n' + part.read_bytes())
    with pytest.raises(UserError, match=r"part-00000.jsonl, line 1: .*--overwrite"):
        Journal(tmp_path, KEYS, {"seed": 0})


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(UserError, match=r"seed: was 0, is 1.*--overwrite"):
        Journal(tmp_path, KEYS, {"seed": 1})


def test_two_writers_of_one_part_are_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path, KEYS, {})
    with pytest.raises(UserError, match="another run is writing"):
        Journal(tmp_path, KEYS, {})
    second = Journal(tmp_path, KEYS, {}, part=1)
    second.append(3, 1, ok=True, text="from the second")
    second.close()
    first.close()
    assert Journal(tmp_path, KEYS, {}).read(3)["text"] == "from the second"


def test_rows_beyond_the_limit_stay_in_the_file(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = Journal(tmp_path, KEYS[:1], {"seed": 0})
    assert journal.has(0, 100) and journal.ok.shape == (1,)
    journal.close()
    assert Journal(tmp_path, KEYS, {"seed": 0}).has(2, 102)


def test_memory_is_a_few_bytes_a_row(tmp_path: Path) -> None:
    count, text = 20_000, "x" * 500
    lines = (json.dumps({"dataset_index": n, "input": n, "ok": True, "text": text}) + "\n" for n in range(count))
    with (tmp_path / "part-00000.jsonl").open("w") as file:
        file.writelines(lines)
    tracemalloc.start()
    journal = Journal(tmp_path, np.arange(count), {})
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert journal.ok.all() and held < 25 * count and peak < 150 * count


def test_digest_tells_the_parts_apart() -> None:
    assert input_digest("ab", "c") != input_digest("a", "bc")
