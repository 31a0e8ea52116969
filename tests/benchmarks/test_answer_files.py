"""create_answer_json: a run's folder found, joined by id, written for the scorers; or refused with the reason."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from src.benchmarks.answer_files import find_run, parse_checkpoints, write_answers
from src.common.errors import UserError
from src.common.files import write_json
from src.common.paths import generated_dir, raw_dir

Row = dict[str, Any]


def raw_row(number: int) -> Row:
    return {
        "id": f"mmsu_{number}", "task_name": "t", "audio_path": f"/audio/{number}.wav", "question": f"q{number}",
        "choice_a": "yes", "choice_b": f"no {number}", "answer_gt": "yes", "category": "Perception",
        "sub-category": "Linguistics",
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A converted MMSU of four rows, and a run over it whose rows lie in another order."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    rows = [raw_row(number) for number in range(4)]
    base = [
        {"question": row["question"], "choices": [row["choice_a"], row["choice_b"]], "answer": "yes", "id": row["id"],
         "dataset_index": number} for number, row in enumerate(rows)
    ]  # fmt: skip
    DatasetDict({"test": Dataset.from_list(base)}).save_to_disk(str(raw_dir("mmsu")))
    random.Random(1).shuffle(rows)
    write_json(raw_dir("mmsu") / "metadata" / "test_metadata.json", rows)
    save_run(generated_dir("llm", "mmsu_A_seed_3_8192_1024"), [answer(row) for row in base][::-1])
    return generated_dir("llm", "mmsu_A_seed_3_8192_1024")


def answer(row: Row) -> Row:
    number = row["dataset_index"]
    return {
        "dataset_index": number, "question": row["question"], "choices": row["choices"],
        "llm_answer": None if number == 2 else row["choices"][number % 2],
        "parse_status": "empty" if number == 2 else "index",
    }  # fmt: skip


def save_run(folder: Path, answers: list[Row]) -> None:
    DatasetDict({"test": Dataset.from_list(answers)}).save_to_disk(str(folder))
    write_json(folder / "run.json", {"config": {"dataset": {"name": "mmsu"}}})


def test_predictions_reach_their_rows(run: Path) -> None:
    assert find_run("mmsu", "A", 8192, 1024, seed=3) == run
    written = write_answers(run, keys=["response", "answer_prediction"])
    assert [file.path for file in written] == [run / "metadata" / "test_metadata.json"]
    text = written[0].path.read_text()
    rows = json.loads(text)
    expected = {"mmsu_0": ("yes", "A"), "mmsu_1": ("no 1", "B"), "mmsu_2": ("", ""), "mmsu_3": ("no 3", "B")}
    assert {row["id"]: (row["model_prediction"], row["response"]) for row in rows} == expected
    assert all(row["answer_prediction"] == row["model_prediction"] for row in rows)
    metadata = json.loads((raw_dir("mmsu") / "metadata" / "test_metadata.json").read_text())
    assert [row["id"] for row in rows] == [row["id"] for row in metadata], "in the metadata's order"
    assert text.startswith("[\n    {\n        "), "four blanks deep, as published"
    lines = (run / "metadata" / "test_metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in lines] == [row["response"] for row in rows]


def test_what_does_not_belong_together_is_refused_or_left_out(run: Path) -> None:
    path = raw_dir("mmsu") / "metadata" / "test_metadata.json"
    rows = json.loads(path.read_text())
    write_json(path, [*rows[:3], {**rows[3], "id": "other"}])
    with pytest.raises(UserError, match=r"1 answer\(s\) whose id the metadata does not have.*1 metadata row\(s\) wi"):
        write_answers(run)
    assert not (run / "metadata").exists()
    found = write_answers(run, partial=True)[0]
    assert found.rows == 3 and len(found.left_out) == 2
    write_json(path, [*rows, rows[0]])
    with pytest.raises(UserError, match="share one id"):
        write_answers(run, partial=True)


def test_splits_and_runs_that_are_missing_are_named(run: Path) -> None:
    (raw_dir("mmsu") / "metadata" / "test_metadata.json").unlink()
    with pytest.raises(UserError, match="no split has both answers and metadata"):
        write_answers(run)
    with pytest.raises(UserError, match="mmsu_B_8192_1024; generate the answers first"):
        find_run("mmsu", "B", 8192, 1024)
    save_run(generated_dir("other", run.name), [answer({"dataset_index": 0, "question": "q", "choices": ["a", "b"]})])
    with pytest.raises(UserError, match="several runs are called"):
        find_run("mmsu", "A", 8192, 1024, seed=3)
    assert find_run("mmsu", "A", 8192, 1024, seed=3, llm="Qwen/llm") == run
    with pytest.raises(UserError, match="no data set 'mmar'"):
        write_answers(run, "mmar")


def test_checkpoints_of_a_command_line() -> None:
    assert parse_checkpoints("A") == "A"
    assert parse_checkpoints("a/A, B") == ["a/A", " B"] and parse_checkpoints("[A,B]") == ["A", "B"]
