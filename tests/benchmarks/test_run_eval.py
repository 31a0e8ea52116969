"""run_eval.sh on the miniature benchmark: its arguments; with real vLLM scores, report, a rerun from a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.common.paths import ASSETS, REPO_ROOT

SCRIPT = str(REPO_ROOT / "run_eval.sh")
QUESTIONS = 24


def test_wrong_arguments_print_the_usage() -> None:
    for arguments in ([], ["mmar", "default_inference"], list("12345678")):
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and "run_eval.sh DATASET MODEL CHECKPOINT [SPLIT]" in done.stderr
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Hub id" in done.stdout and "set -" not in done.stdout


def test_options_reach_the_programs_as_published(tmp_path: Path) -> None:
    """A stand-in for Python writes down what it is called with."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n'
        'case "$1" in *create_answer_json.py)\n'
        '  printf "R/metadata/a_metadata.json\\nR/metadata/b_metadata.json\\n";; esac\n'
    )
    python.chmod(0o755)
    call = [SCRIPT, "mmau", "default_inference", "[a/A,b/B]", "test-mini", "4", "0.6", "3"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(python),
        "CUDA_VISIBLE_DEVICES": "1,2",
        "LLM": "o/llm",
        "PROMPTS": "own.yaml",
    }
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    generate, join, first, second, report = log.read_text().replace(f"{REPO_ROOT}/", "").splitlines()
    assert generate == (
        "generate_vllm_mcqa.py model=default_inference dataset.name=mmau dataset.split=test-mini "
        "checkpoint_name=[a/A,b/B] batch_size=4 seed=3 engine.gpu_memory_utilization=0.6 model.max_tokens=16384 "
        "model.max_thinking_tokens=8192 model.llm=o/llm prompts=own.yaml cuda_devices='1,2'"
    )
    assert join.split() == [
        "scripts/benchmarks/create_answer_json.py", "--dataset", "mmau", "--checkpoint", "[a/A,b/B]", "--max-tokens",
        "16384", "--max-thinking-tokens", "8192", "--seed", "3", "--llm", "o/llm",
    ]  # fmt: skip
    assert [first.split()[-1], second.split()[-1]] == ["R/metadata/a_metadata.json", "R/metadata/b_metadata.json"]
    assert first.startswith("scripts/benchmarks/evaluation/mmau.py --input")
    assert report == "scripts/benchmarks/report.py R --output R/report.html"
    log.unlink()
    call = [SCRIPT, "mmau", "none", "endpoint"]
    done = subprocess.run(call, env={**environment, "ENDPOINT": "http://h/v1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    generate, join, *_ = log.read_text().replace(f"{REPO_ROOT}/", "").splitlines()
    assert generate == (
        "generate_vllm_mcqa.py engine=openai dataset.name=mmau dataset.split=null engine.base_url=http://h/v1 "
        "engine.model=o/llm batch_size=8 seed=null model.max_tokens=16384 "
        "model.max_thinking_tokens=8192 prompts=own.yaml"
    )
    assert "--checkpoint endpoint" in join and "--llm o/llm" in join


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with the miniature benchmark, and a checkpoint with random weights for the shipped language model."""
    environment = {**os.environ, "ALARM_DATA_ROOT": str(tmp_path / "data")}
    sizes = ["--train-size", "8", "--validation-size", "4", "--test-size", "4", "--choice-size", str(QUESTIONS)]
    subprocess.run(
        [sys.executable, str(REPO_ROOT / "scripts/mini/make_scenes.py"), *sizes], env=environment, check=True
    )
    from src.model.checkpoints import save_checkpoint
    from tests.support.tiny_models import mini_audio_embedder, model_config

    config = model_config("mini_whisper", f"model.llm={ASSETS / 'mini' / 'llm'}")
    save_checkpoint(tmp_path / "checkpoint", mini_audio_embedder("mini_whisper").requires_grad_(False), config)
    return tmp_path


@pytest.mark.slow
@pytest.mark.vllm
def test_scores_and_report_after_a_kill(world: Path) -> None:
    environment = {
        **os.environ, "ALARM_DATA_ROOT": str(world / "data"), "PYTHON": sys.executable, "MAX_TOKENS": "96",
        "MAX_THINKING_TOKENS": "64", "PROMPTS": "mini", "EXTRA": "engine.max_num_seqs=2 engine.kv_cache_gib=0.2 "
        "engine.max_model_len=1024 greedy=true",
    }  # fmt: skip
    call = [SCRIPT, "mini_mcqa", "default_inference", str(world / "checkpoint")]
    killed = subprocess.Popen(
        call, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    kept = wait_for_rows(world, killed, 5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list((world / "data").rglob("report.html"))

    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    run = next((world / "data" / "generated").rglob("run.json")).parent
    record = json.loads((run / "run.json").read_text())
    assert sum(split["rows"] for split in record["splits"].values()) == 2 * QUESTIONS
    assert 0 < record["rows_this_run"] <= 2 * QUESTIONS - kept
    for split in ("known", "unseen"):
        scores = json.loads((run / "metadata" / f"{split}_metadata_scores.json").read_text())
        found = scores["averages"][scores["headline"]]
        assert scores["rows"] == QUESTIONS and found["low"] <= found["value"] <= found["high"]
        assert sum(scores["parse_statuses"].values()) == QUESTIONS
        assert f"unparsed {scores['unparsed']}/{QUESTIONS}" in done.stdout
    page = (run / "report.html").read_text()
    assert "mini_mcqa, known; mini_mcqa, unseen" in page and page.count("<audio") == 2 * QUESTIONS

    again = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=540)
    assert again.returncode == 0 and json.loads((run / "run.json").read_text())["rows_this_run"] == 0


def wait_for_rows(world: Path, process: subprocess.Popen[bytes], count: int) -> int:
    """Waits until the run has saved so many rows; returns how many it has."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        parts = list((world / "data").rglob("part-*.jsonl"))
        rows = sum(path.read_text().count("\n") for path in parts)
        if rows >= count:
            return rows
        time.sleep(0.1)
    raise AssertionError(f"fewer than {count} rows in 300 s")
