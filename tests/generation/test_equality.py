"""scripts/check_equal.py at a tiny size: transformers and an endpoint give the engine's answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src.common.paths import REPO_ROOT
from src.model.checkpoints import save_checkpoint
from tests.generation.conftest import choice_rows, save_set
from tests.support.equality_check import Tokens, compare_tokens
from tests.support.tiny_models import mini_audio_embedder, model_config

ROWS = 6


def test_a_token_that_differs_is_reported_with_its_logits() -> None:
    ours = {"a": Tokens([5, 6, 2]), "b": Tokens([5, 2])}
    equal = {"a": Tokens([5, 6, 2], [1.0, 0.5, 2.0]), "b": Tokens([5, 2], [1.0, 3.0])}
    assert compare_tokens(ours, equal)[-1] == "equal: greedy tokens of 2 of 2 rows are equal"
    other = compare_tokens(ours, {**equal, "a": Tokens([5, 7, 2], [1.0, 0.01, 2.0])})
    assert other[0] == "a: token 1 of 3 differs, logits 1.00e-02 apart"
    assert other[-1] == "DIFFERENT: greedy tokens of 1 of 2 rows are equal"
    shorter = compare_tokens(ours, {**equal, "b": Tokens([5], [1.0])})
    assert shorter[0].startswith("b: token 1 of 2 differs") and shorter[-1].startswith("DIFFERENT")
    assert compare_tokens(ours, {"a": equal["a"]})[-1].startswith("DIFFERENT")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("only", ["transformers", "endpoint"])
def test_answers_are_equal(only: str, tmp_path: Path, data_root: Path) -> None:
    save_set("choices", {"test": [{"id": f"q{row['dataset_index']}", **row} for row in choice_rows(ROWS)]})
    run = save_checkpoint(tmp_path / "run", mini_audio_embedder("mini_whisper"), model_config("mini_whisper"))
    limits = ["model.max_tokens=40", "model.max_thinking_tokens=24", "model.max_model_len=1024"]
    command = ["scripts/check_equal.py", str(run), "--dataset", "choices", "--only", only, "--kills", "1"]
    command += ["--folder", str(tmp_path), *limits, "engine.kv_cache_gib=0.5"]
    done = subprocess.run([sys.executable, *command], cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    equal = {
        "transformers": "greedy tokens of 6 of 6 rows are equal",
        "endpoint": "6 of 6 rows are equal, after 1 kills",
    }
    assert f"equal: {equal[only]}" in done.stdout
