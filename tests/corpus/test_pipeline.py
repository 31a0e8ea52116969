"""From raw clips to a trained audio embedder by the public commands, with real vLLM and a miniature LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from examples.miniature.world.prompt_tasks import KIND_OF_SHAPE, shape_of
from src.common.paths import REPO_ROOT, indexes_filtered_dir, prompts_dir, raw_dir, responses_dir

ROWS = {"train": 24, "validation": 6}
LLM = ("--llm", "assets/mini/llm", "--prompts", "mini", "--max-model-len", "1024")
PLAIN, FINAL = "mini_llm_160", "mini_rephrased_200_filtered_llm_160"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one of the project's programs below a data root of the test's own; returns what it printed."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, program, *arguments],
            cwd=REPO_ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr[-3000:]}"
        return done.stdout

    return run


@pytest.mark.vllm
@pytest.mark.slow
def test_from_clips_to_a_trained_audio_embedder(command: Any, tmp_path: Path) -> None:
    command("scripts/mini/make_scenes.py", "--train-size", "24", "--validation-size", "6", "--test-size", "2",
            "--choice-size", "2")  # fmt: skip
    made = json.loads(
        command("scripts/alarm/create_prompts_offline.py", "mini", *LLM, "--redo", "--max-tokens", "200")
    )["mini"]
    assert made["rows"] >= 28 and made["unique"] > 5
    prompts = load_from_disk(str(prompts_dir("mini")))
    asked = [row["prompt"] for split in prompts.values() for row in split]
    assert sum(shape_of(prompt) in KIND_OF_SHAPE for prompt in asked) >= 0.9 * len(asked)

    results = json.loads(
        command(
            "scripts/alarm/generate_responses.py", "--dataset", "mini", *LLM, "--rephrase",
            "--checker-llm", "assets/mini/llm", "--max-tokens", "160", "--max-thinking-tokens", "200",
            "--rephrase-max-tokens", "400", "--tokens-min", "10",
        )
    )  # fmt: skip
    assert results[PLAIN]["betraying_share"]["thoughts"] == 1.0
    assert results[FINAL]["betraying_share"]["response"] == 0.0
    assert results[FINAL]["ok"] >= 0.9 * made["rows"]
    rows = load_from_disk(str(responses_dir("llm", FINAL)))["train"]
    assert all("</think>" in text for text in rows["llm_answer_with_context"])

    command("scripts/alarm/create_train_val_split.py", "mini", "--overwrite")
    command("scripts/alarm/validate_and_filter_indexes.py", "mini")
    command("scripts/alarm/validate_data_order.py", "mini", "--llm", "llm", "--max-tokens", "160")
    assert "Other  all         30" in command("scripts/alarm/dataset_statistics.py", "mini")
    assert indexes_filtered_dir("mini").is_dir() and raw_dir("mini").is_dir()

    target = f"[[{FINAL},WithContext,1.0,false]]"
    run = tmp_path / "run"
    command(
        "train.py", "model=mini_whisper", "dataset=mini", "training_args=mini", f"dataset.train.rows={target}",
        f"dataset.eval.mini.rows={target}",
        "training_args.max_steps=2", f"training_args.output_dir={run}",
    )  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    assert record["counts"]["rows_replaced"] == 0 and record["results"]["train_loss"] > 0

    command("scripts/alarm/corpus_report.py", "mini", "--out", str(tmp_path / "report.html"),
            "--json", str(tmp_path / "report.json"))  # fmt: skip
    (corpus,) = json.loads((tmp_path / "report.json").read_text())["corpora"]
    assert corpus["raw"]["rows"] == sum(ROWS.values())
    assert {each["folder"] for each in corpus["responses"]} == {PLAIN, FINAL}
    assert "data:audio" in (tmp_path / "report.html").read_text()
