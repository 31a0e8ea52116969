"""Programs below ``scripts/`` that no other test starts, on tiny input."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.common.paths import ASSETS, REPO_ROOT, indexes_dir, raw_dir
from src.model.checkpoints import save_checkpoint
from tests.support.fake_runs import make_fake_job, make_training
from tests.support.tiny_corpus import make_rows, save_indexes, save_raw, save_responses, save_split
from tests.support.tiny_instructions import make_questions, save_questions
from tests.support.tiny_models import mini_audio_embedder, model_config

CASES = REPO_ROOT / "tests" / "reference" / "benchmark_cases"
LLM = ASSETS / "mini" / "llm"
Start = Callable[..., str]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Start:
    """``start(PROGRAM, argument, …, code=0)`` runs a program as ``__main__`` and returns what it printed."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))

    def call(program: str, *arguments: object, code: int = 0) -> str:
        path = str(REPO_ROOT / "scripts" / program)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))  # programs put the repository in front
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.err[-2000:]
        return printed.out

    return call


def test_tools_over_a_corpus(start: Start, tmp_path: Path) -> None:
    rows = make_rows(12)
    save_raw(rows, "esc50")
    save_responses(rows, "esc50_llm_512")
    save_indexes(indexes_dir("esc50"), train=list(range(1, 12)), validation=[0])
    assert "unique prompts" in start("alarm/dataset_statistics.py", "esc50", "--json", tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())
    assert "events" in start("alarm/combined_dataset.py", "esc50", "--examples", 1)
    plain = ("--llm", LLM, "--plain", "--max-thinking-tokens", -1)
    start("alarm/validate_and_filter_answers.py", "esc50", *plain, "--tokens-min", 1)
    assert list((tmp_path / "datasets" / "indexes_filtered" / "esc50").rglob("train_indexes.npy"))
    start("alarm/corpus_report.py", "esc50", "--out", tmp_path / "page.html", "--samples", 1)
    assert "esc50" in (tmp_path / "page.html").read_text()


def test_the_released_corpus_is_joined_from_a_local_copy(start: Start, tmp_path: Path) -> None:
    rows = make_rows(6)
    save_raw(rows, "esc50")
    released = [
        {**row, "dataset_name": "esc50", "context": row["prompt"], "dataset_index": 100 + row["dataset_index"]}
        for row in rows
    ]
    columns = ("dataset_name", "context", "audio_description", "llm_answer_with_context", "llm_answer_no_context")
    columns += ("unique_id_1", "unique_id_2", "dataset_index")
    from datasets import DatasetDict, load_from_disk

    parts = {
        "raw_train": released[:5],
        "raw_validation": released[5:],
        "train": released[:4],
        "validation": released[5:],
    }
    sets = {}
    for split, part in parts.items():
        save_split(tmp_path / split, part, columns, split)
        sets[split] = load_from_disk(str(tmp_path / split))[split]
    DatasetDict(sets).save_to_disk(str(tmp_path / "released"))
    start("alarm/merge_with_online_alarm_corpora.py", "esc50", "--source", tmp_path / "released")
    assert list((tmp_path / "datasets" / "responses").rglob("dataset_dict.json"))


@pytest.mark.slow
def test_speech_recognition_filters_an_instruction_set(start: Start, tmp_path: Path) -> None:
    from tests.support.tiny_whisper import save_tiny_whisper

    save_questions("heysquad_human", {"train": make_questions(3)})
    model = save_tiny_whisper(tmp_path / "whisper")
    limits = ("--max-wer", "none", "--normalisation", "none", "--batch-size", 2)
    start("alarm/filter_dataset.py", "heysquad_human", "--model", model, *limits)
    assert (raw_dir("heysquad_human_filtered") / "dataset_dict.json").exists()


@pytest.mark.vllm
@pytest.mark.slow
def test_targets_of_an_instruction_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    save_questions("heysquad_human", {"train": make_questions(3)})
    program = REPO_ROOT / "scripts/alarm/generate_instruction_responses.py"
    small = ["--max-tokens", "8", "--max-model-len", "512", "--temperature", "0", "--max-num-seqs", "2"]
    # a process of its own: vLLM replaces sys.stdout while it starts, which pytest captures
    command = [sys.executable, program, "--dataset", "heysquad_human", "--llm", LLM, *small]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert list((tmp_path / "datasets" / "responses").rglob("dataset_dict.json"))


@pytest.mark.parametrize("name", ["mmau", "mmar", "mmsu", "airbench", "mmaupro", "generic"])
def test_benchmarks_are_scored(name: str, start: Start, tmp_path: Path) -> None:
    keys = {
        "airbench": {
            "choice_a": "one",
            "choice_b": "two",
            "answer_gt": "two",
            "task_name": "Speech_Grounding",
            "uniq_id": 1,
        },
        "mmsu": {
            "choice_a": "one",
            "choice_b": "two",
            "answer_gt": "two",
            "category": "Perception",
            "sub-category": "x",
        },
        "mmaupro": {"choices": ["one", "two"], "answer": "two", "category": "sound", "length_type": "short"},
    }.get(
        name, {"choices": ["one", "two"], "answer": "two", "task": "sound", "difficulty": "easy", "modality": "sound"}
    )
    row = {"id": "1", "question": "which?", **keys, "model_prediction": "two"}
    (tmp_path / "answers.json").write_text(json.dumps([row]))
    printed = start(f"benchmarks/evaluation/{name}.py", "--input", tmp_path / "answers.json")
    assert "100.00" in printed
    assert (tmp_path / "answers_scores.json").exists()


@pytest.mark.parametrize("name", ["mmau", "mmar", "mmsu", "airbench"])
def test_benchmarks_are_converted(name: str, start: Start, tmp_path: Path) -> None:
    from tests.benchmarks.conversion.test_collect import lay_out

    (tmp_path / "upstream").mkdir()
    lay_out(name, tmp_path / "upstream")
    start(f"benchmarks/dataset_collection/{name}.py", "--from-dir", tmp_path / "upstream")
    assert list((tmp_path / "datasets" / "raw").rglob("dataset_dict.json"))


def test_recorded_cases_are_checked(start: Start) -> None:
    start("benchmarks/check_cases.py", CASES)
    start("check_goldens.py", REPO_ROOT / "tests" / "reference" / "goldens", "--kinds", "adapters")


def test_a_checkpoint_is_converted_to_the_published_form_and_back(start: Start, tmp_path: Path) -> None:
    config = model_config("mini_whisper", f"model.llm={LLM}")
    ours = save_checkpoint(tmp_path / "ours", mini_audio_embedder("mini_whisper"), config)
    start("convert_checkpoint.py", ours, tmp_path / "published", "--to", "published")
    start("convert_checkpoint.py", tmp_path / "published", tmp_path / "back", "--to", "alarm")
    assert (tmp_path / "back" / "model.safetensors").exists()


def test_pages_of_a_job_and_of_trainings(start: Start, tmp_path: Path) -> None:
    make_fake_job(tmp_path / "job", count=12)
    start("mini/make_report.py", "--manifest", tmp_path / "job" / "manifest.json", "--out", tmp_path / "report.html")
    make_training(tmp_path / "run", steps=20)
    printed = start("plot_curves.py", tmp_path / "run", "--out", tmp_path / "curves.html")
    assert "curves.html" in printed and (tmp_path / "report.html").exists() and (tmp_path / "curves.html").exists()


@pytest.mark.slow
def test_recipes_of_the_miniature_assets(start: Start, tmp_path: Path) -> None:
    start("mini/train_llm.py", "--out", tmp_path / "llm", "--steps", 1, "--held-out", 1)
    start(
        "mini/score_llm.py",
        "--llm",
        tmp_path / "llm",
        "--tasks",
        "opposite",
        "--held-out",
        1,
        "--out",
        tmp_path / "s.json",
    )
    assert json.loads((tmp_path / "s.json").read_text())["held_out"]["opposite"]["n"] == 1
    few = ("--names", "muq", "--steps", 1, "--score-clips", 1)
    start("mini/train_encoders.py", "--output", tmp_path / "encoders", *few)
    assert (tmp_path / "encoders" / "muq" / "scores.json").exists()
    error = start("mini/make_sounds.py", "--from-dir", tmp_path, "--output", tmp_path / "sounds", code=1)
    assert error == "", "a folder without the package is refused in one line on standard error"


def test_the_style_of_the_code_is_measured(start: Start) -> None:
    printed = start("dev/measure_style.py")
    assert "| files of src/ |" in printed and "| comments with a link |" in printed


@pytest.mark.slow
def test_decoding_is_compared_over_some_files(start: Start, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("compares with FFmpeg's command, which is not installed")
    start("check_decoding.py", "--jobs", 1, "--json", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())
