"""The command: help at once, one line for a mistake, and the miniature LLM as writer and checker."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from examples.miniature.world.prompt_tasks import suits
from examples.miniature.world.scene import describe, draw_scene
from src.common.paths import ASSETS, REPO_ROOT, prompts_dir, raw_dir
from src.corpus.targets.llm_settings import work_dir

SCRIPT = REPO_ROOT / "scripts" / "alarm" / "create_prompts_offline.py"
LLM = ASSETS / "mini" / "llm"
ROWS = 12


def run(*arguments: str, root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=REPO_ROOT,
        timeout=300,
        env={**os.environ, "ALARM_DATA_ROOT": str(root)},
    )


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    unknown = run("esc5O", root=tmp_path)
    assert unknown.returncode != 0 and "did you mean 'esc50'" in unknown.stderr
    missing = run("esc50", root=tmp_path)
    assert missing.returncode == 1 and "no raw set of esc50" in missing.stderr
    nothing = run(root=tmp_path)
    assert nothing.returncode == 1 and "no corpus is collected" in nothing.stderr
    assert all(len(done.stderr.splitlines()) == 1 for done in (unknown, missing, nothing))
    assert run("esc50", "--triess", "2", root=tmp_path).returncode == 2


@pytest.mark.vllm
def test_the_miniature_llm_writes_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    rng = random.Random(0)
    scenes = [draw_scene(rng) for _ in range(ROWS)]
    table = Dataset.from_dict(
        {"dataset_index": list(range(ROWS)), "audio_description": [describe(scene) for scene in scenes]}
    )
    DatasetDict({"train": table}).save_to_disk(str(raw_dir("tiny")))
    options = ["tiny", "--llm", str(LLM), "--prompts", "mini", "--max-tokens", "200", "--max-model-len", "1024"]
    done = run(*options, "--max-num-seqs", "8", root=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    journal = work_dir("tiny") / "train" / "write-0" / "part-00000.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sorted(record["dataset_index"] for record in records) == list(range(ROWS))
    assert all(record["ok"] == bool(record["prompts"]) for record in records)
    if done.returncode != 0:  # a miniature that has not learnt the task
        assert "no row got a prompt in tiny" in done.stderr and not prompts_dir("tiny").exists()
    else:
        result = json.loads(done.stdout)["tiny"]
        rows = load_from_disk(str(prompts_dir("tiny")))["train"].to_list()
        assert len(rows) == result["rows"] == ROWS - sum(result["dropped"].values())
        assert all(row["prompt"].strip() for row in rows)
        again = run(*options, root=tmp_path)
        assert json.loads(again.stdout) == {} and "skipped" in again.stderr
    if "write prompts" in json.loads((LLM / "scores.json").read_text())["held_out"]:
        assert done.returncode == 0, done.stderr
        assert len(rows) >= ROWS - 2
        assert sum(suits(row["prompt"], scenes[row["dataset_index"]]) for row in rows) >= 0.8 * len(rows)
