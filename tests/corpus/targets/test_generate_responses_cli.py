"""The command: help at once, one line for a mistake, and a whole run on a real engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from src.common.paths import REPO_ROOT
from tests.corpus.targets.fakes import save_prompts
from tests.support.tiny_corpus import make_rows
from tests.support.tiny_llm import save_tiny_llm

SCRIPT = REPO_ROOT / "scripts" / "alarm" / "generate_responses.py"


def run(
    *arguments: str, cwd: Path = REPO_ROOT, timeout: int = 300, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, **environment},
    )


def save_tiny_vllm_llm(folder: Path) -> Path:
    """The tiny LLM with heads of a size that vLLM's CPU attention knows."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    save_tiny_llm(folder, width=64)
    config = Qwen3Config.from_pretrained(folder)
    config.head_dim = 32
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cwd", [REPO_ROOT, SCRIPT.parent])
def test_help_names_every_option_without_torch(cwd: Path, tmp_path: Path) -> None:
    for name in ("torch", "vllm", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('imported')")
    done = run("--help", cwd=cwd, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    published = ("--model-name", "--max-tries", "--batch-size", "--no-rephrase", "--no-use-checker", "--debug-ind")
    for option in ("--dataset", "--max-thinking-tokens", "--checker-llm", "--limit", "--overwrite", *published):
        assert option in done.stdout


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    missing = run("--dataset", "nope", "--llm", "x/tiny", ALARM_DATA_ROOT=str(tmp_path))
    assert missing.returncode == 1 and "nope_with_prompts" in missing.stderr
    assert "Traceback" not in missing.stderr and len(missing.stderr.splitlines()) == 1
    underscore = run("--dataset", "nope", "--llm", "x/a_b", ALARM_DATA_ROOT=str(tmp_path))
    assert underscore.returncode == 1 and "underscore" in underscore.stderr
    assert run("--dataset", "nope", "--rephrse").returncode == 2


@pytest.mark.vllm
def test_a_real_engine_writes_both_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "data"))
    save_prompts("mini", 6)
    llm = save_tiny_vllm_llm(tmp_path / "llm")
    options = ["--dataset", "mini", "--llm", str(llm), "--prompts", "mini", "--rephrase", "--max-tokens", "12"]
    options += ["--max-thinking-tokens", "8", "--rephrase-max-tokens", "16", "--temperature", "1", "--tries", "2"]
    done = run(*options, ALARM_DATA_ROOT=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == ["mini_llm_12", "mini_rephrased_8_llm_12"]
    assert done.stderr.count("starting the engine") == 1
    journal = tmp_path / "data/responses/llm/mini_llm_12/journal/train/generate-0/part-00000.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(records) == 6 and all(record["finish_reason"] in ("stop", "length") for record in records)
    assert len({record["text"] for record in records}) > 1
    rewritings = tmp_path / "data/responses/llm/mini_rephrased_8_llm_12/journal/train"
    assert all("raw" in json.loads(line) for line in (rewritings / "rephrase-1/part-00000.jsonl").open())
    again = run(*options, ALARM_DATA_ROOT=str(tmp_path / "data"))
    assert again.returncode == 0 and "starting the engine" not in again.stderr
    assert json.loads(again.stdout) == summary


@pytest.mark.slow
@pytest.mark.vllm
def test_the_miniature_generates_rewrites_and_checks_with_two_workers(tmp_path: Path) -> None:
    """The shipped LLM answers and rewrites; as its own checker it says neither YES nor NO, which counts as good."""
    root = tmp_path / "data"
    rows = make_rows(6)
    columns = ("dataset_index", "audio_description", "prompt")
    table = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    DatasetDict({"train": table}).save_to_disk(str(root / "raw_with_prompts/mini_with_prompts"))
    llm = str(REPO_ROOT / "assets/mini/llm")
    options = ["--dataset", "mini", "--llm", llm, "--prompts", "mini", "--rephrase", "--max-tokens", "64"]
    options += ["--max-thinking-tokens", "256", "--rephrase-max-tokens", "256", "--max-model-len", "1024"]
    checked = [*options, "--checker-llm", llm, "--tries", "2"]
    done = run(*checked, "--workers", "2", timeout=560, ALARM_DATA_ROOT=str(root))
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    plain, final = "mini_llm_64", "mini_rephrased_256_filtered_llm_64"
    assert list(summary) == [plain, final] and summary[plain]["ok"] == 6
    assert summary[final]["ok"] >= 3, "the miniature rewrites most of its responses"
    assert summary[final]["betraying_share"]["response"] < summary[plain]["betraying_share"]["response"]
    assert len(list((root / f"responses/llm/{final}/journal/train").glob("check-0/part-*.jsonl"))) == 1
    responses = {name: load_from_disk(str(root / "responses/llm" / name))["train"] for name in summary}
    assert [row["dataset_index"] for row in responses[final]] == list(range(6))
    again = run(*checked, timeout=560, ALARM_DATA_ROOT=str(root))
    assert again.returncode == 0 and "starting the engine" not in again.stderr and json.loads(again.stdout) == summary
