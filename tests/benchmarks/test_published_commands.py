"""The benchmark commands of the published README, from the folders that it names, over answers in published form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from src.benchmarks.answer_files import find_run, parse_checkpoints, run_dataset
from src.common.errors import UserError
from src.common.files import write_json
from src.common.paths import REPO_ROOT, generated_dir, raw_dir

LLM, CHECKPOINT = "Qwen3-4B-Thinking-2507", "Blinorot/ALARM-CA"
PAIR = ["Blinorot/ALARM-CA", "Blinorot/AL-Whisper-Instruct-R"]
SCRIPTS = REPO_ROOT / "scripts" / "benchmarks"
LIMITS = ["--max-tokens", "16384", "--max-thinking-tokens", "8192"]


def metadata_row(number: int) -> dict[str, Any]:
    return {
        "id": f"t_{number}", "task_name": "t", "audio_path": f"/audio/{number}.wav", "question": f"q{number}?",
        "choice_a": "yes", "choice_b": "no", "choice_c": f"{number} times", "answer_gt": "yes",
        "category": "Reasoning", "sub-category": "Linguistics", "sub-sub-category": "Semantics",
        "linguistics_sub_discipline": "x", "choices": ["yes", "no", f"{number} times"],
    }  # fmt: skip


def save_published_run(name: str, llm: str = LLM) -> Path:
    """Answers as the published program saves them: four columns, no record of the run."""
    rows = [metadata_row(number) for number in range(4)]
    answers = [
        {"dataset_index": number, "question": row["question"], "choices": row["choices"],
         "llm_answer": "yes" if number < 3 else "no"} for number, row in enumerate(rows)
    ]  # fmt: skip
    folder = generated_dir(llm, name)
    DatasetDict({"test": Dataset.from_list(answers)}).save_to_disk(str(folder))
    return folder


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with MMSU in published form: the converted set, and its metadata with the added choices."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "data"))
    rows = [metadata_row(number) for number in range(4)]
    base = [
        {"question": row["question"], "choices": row["choices"], "answer": "yes", "id": row["id"],
         "dataset_index": number} for number, row in enumerate(rows)
    ]  # fmt: skip
    DatasetDict({"test": Dataset.from_list(base)}).save_to_disk(str(raw_dir("mmsu")))
    write_json(raw_dir("mmsu") / "metadata" / "test_metadata.json", rows)
    return tmp_path


def run(*command: str, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_answers_of_the_published_program_are_joined_and_scored(world: Path) -> None:
    folder = save_published_run("mmsu_Blinorot_ALARM-CA_16384_8192")
    before = (folder / "test" / "state.json").read_bytes()
    command = ["create_answer_json.py", "--dataset-name", "mmsu", "--checkpoint-name", CHECKPOINT, *LIMITS]
    run(sys.executable, *command, cwd=SCRIPTS)
    file = folder / "metadata" / "test_metadata.json"
    written = json.loads(file.read_text())
    assert written == [
        {**metadata_row(number), "model_prediction": "yes" if number < 3 else "no"} for number in range(4)
    ], "the published form: the metadata, and the prediction"
    assert file.read_text() == json.dumps(written, indent=4)
    assert (folder / "test" / "state.json").read_bytes() == before
    printed = run(sys.executable, "mmsu.py", f"--input={file}", cwd=SCRIPTS / "evaluation")
    assert "Overall Accuracy: 0.7500" in printed and "Total count: 4" in printed
    page = world / "page.html"
    run(sys.executable, "report.py", str(folder), "--output", str(page), cwd=SCRIPTS)
    assert "MMSU" in page.read_text()


@pytest.mark.parametrize(
    "given", [",".join(PAIR), json.dumps(PAIR), f"[{PAIR[0]},{PAIR[1]}]", f"['{PAIR[0]}', {PAIR[1]}]"]
)
def test_an_ensemble_is_named_as_to_the_run_or_as_published(world: Path, given: str) -> None:
    name = "mmsu_Blinorot_ALARM-CA_Blinorot_AL-Whisper-Instruct-R_seed_1_16384_8192"
    folders = {llm: save_published_run(name, llm) for llm in ("other-llm", LLM)}
    asked = ("mmsu", parse_checkpoints(given), 16384, 8192, 1)
    assert find_run(*asked) == folders[LLM], "the published default of --model-name"
    assert find_run(*asked, llm="someone/other-llm") == folders["other-llm"]


def test_a_run_without_a_record_is_named_after_its_data_set(world: Path) -> None:
    for name in ("mmsu", "mmsu_easy"):
        raw_dir(name).mkdir(exist_ok=True)
    assert run_dataset(save_published_run("mmsu_easy_A_8192_1024")) == "mmsu_easy"
    assert run_dataset(save_published_run("mmsu_A_8192_1024")) == "mmsu"
    with pytest.raises(UserError, match="give --dataset NAME"):
        run_dataset(save_published_run("mmau_A_8192_1024"))


def test_published_defaults_name_a_run(world: Path) -> None:
    printed = run(sys.executable, "create_answer_json.py", cwd=SCRIPTS, code=1)
    assert "mmar_saved_Qwen3-4B-Thinking-2507_bigdataset_whisper_downsample_conformer_checkpoint-30000" in printed
    assert "_8192_1024; generate the answers first" in printed


def test_collectors_are_started_until_they_are_done(tmp_path: Path) -> None:
    """A stand-in for Python fails twice with a download's exit code, and once with that of wrong options."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *--bogus*) exit 2;; esac\n[ $(wc -l < {log}) -ge 3 ]\n'
    )
    python.chmod(0o755)
    folder = SCRIPTS / "dataset_collection"
    told = run("./download_mmsu.sh", "--attempts", "1", cwd=folder, PYTHON=str(python), WAIT_SECONDS="0")
    calls = log.read_text().splitlines()
    assert len(calls) == 3 and all(call.endswith("dataset_collection/mmsu.py --attempts 1") for call in calls)
    assert told.count("is started again in 0 s") == 2
    log.unlink()
    run("./download_airbench.sh", "--bogus", cwd=folder, code=2, PYTHON=str(python), WAIT_SECONDS="0")
    assert log.read_text().splitlines()[0].endswith("dataset_collection/airbench.py --bogus")
