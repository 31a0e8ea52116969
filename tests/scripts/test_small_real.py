"""recipes/small_real.sh end to end with RANDOM weights and tiny sizes: that it runs, not what it reaches.

What it reaches with pretrained parts is in docs/small_real.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from src.common.paths import ASSETS, REPO_ROOT

WORDS = ("red", "green", "blue", "one", "two")


@pytest.fixture
def random_whisper(tmp_path: Path) -> Path:
    """A Whisper of four layers with random weights, saved as transformers saves one."""
    torch.manual_seed(0)
    config = WhisperConfig(
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 4),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
        d_model=16, num_mel_bins=80, vocab_size=64, max_target_positions=8, pad_token_id=0, eos_token_id=0,
        bos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    folder = tmp_path / "whisper"
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def _speech(folder: Path) -> Path:
    """Twelve clips of noise with transcripts, three of them for validation."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000 + 400 * number), 8000)
        text = f"the {WORDS[number % 5]} {WORDS[number // 5]}."
        rows.append({"audio": path.name, "text": text, "split": "validation" if number % 4 == 0 else "train"})
    table = folder / "speech.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


@pytest.mark.slow
def test_the_recipe_runs_with_random_weights(random_whisper: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "SPEECH": str(_speech(tmp_path)),
        "LLM": str(ASSETS / "mini" / "llm"),
        "WHISPER": str(random_whisper),
        "OUT": str(tmp_path / "out"),
        "ALARM_DATA_ROOT": str(tmp_path / "datasets"),
        "PYTHON": sys.executable,
        "ALIGN_STEPS": "3",
        "TRAIN_STEPS": "2",
        "THREADS": "1",
        "BF16": "false",
    }

    def recipe(*arguments: str) -> str:
        done = subprocess.run(
            [REPO_ROOT / "recipes" / "small_real.sh", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    printed = recipe()
    out = tmp_path / "out"
    assert "| own clip | 3 |" in printed and "| no audio | 3 |" in printed
    answers = [json.loads(line) for line in (out / "transcribe" / "speech_answers.jsonl").read_text().splitlines()]
    assert sorted(row["target"] for row in answers) == ["the one green.", "the red red.", "the two red."]
    record = json.loads((out / "transcribe" / "run.json").read_text())
    assert record["config"]["model"]["from_pretrained"] == str(out / "align")
    assert (out / "transcribe" / "lora").is_dir()
    assert recipe("--list").count(": done") == 4
