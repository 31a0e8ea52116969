"""The published recipes as shell scripts, whole, in miniature: every stage, skipped when done, resumed when not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from src.common.config import compose
from src.common.paths import REPO_ROOT
from src.training.callbacks import read_metrics
from src.training.run import run_training
from tests.training.test_run import losses, record

STAGES = {
    "train_alarm_ca.sh": ["whisper_all", "w2vbert_speech", "sslam_audio", "muq_music", "alarm_ca"],
    "train_alarm_p.sh": ["whisper_instruct", "alarm_p"],
}


def recipe(
    script: str, world: Path, out: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a recipe on the tiny world, two steps a stage, with the published settings but for sizes and numbers."""
    small = "max_steps=2 warmup_steps=1 logging_steps=1 dataloader_num_workers=1"
    names = ("ALL", "SPEECH", "AUDIO", "MUSIC", "CONTENT")
    settings = {
        **os.environ,
        "ALARM_DATA_ROOT": str(world / "datasets"),
        "OMP_NUM_THREADS": "1",
        "PYTHON": sys.executable,
        "OUT": str(out),
        "GPUS": "1",
        "CLIPS": "2",
        "EFFECTIVE_ONE": "4",
        "EFFECTIVE_ALL": "4",
        "EVAL_STEPS_ONE": "1",
        "EVAL_STEPS_ALL": "1",
        "SAVE_STEPS": "1",
        "EXTRA": " ".join(
            [
                f"model.llm={world / 'llm'} random_weights=true sample_generations=1 sample_tokens=3",
                *(f"training_args.{setting}" for setting in small.split()),
            ]
        ),
        **{f"DATASET_{name}": "mini" for name in names},
        **{f"MODEL_{name.upper()}": f"mini_{name}" for name in ("whisper", "w2vbert", "sslam", "muq")},
        "MODEL_CA": "mini_alarm_ca",
        "MODEL_P": "mini_alarm_p",
        **environment,
    }
    return subprocess.run(
        ["bash", script, *arguments], cwd=REPO_ROOT, env=settings, capture_output=True, text=True, timeout=600
    )


@pytest.mark.launch
@pytest.mark.slow
@pytest.mark.parametrize(("script", "processes"), [("train_alarm_ca.sh", 1), ("train_alarm_p.sh", 2)])
def test_a_recipe_runs_whole_and_goes_on_where_it_was(
    script: str, processes: int, world: Path, tmp_path: Path
) -> None:
    several = {"GPUS": "2", "ACCELERATE_CONFIG": "src/configs/accelerate/cpu.yaml", "EFFECTIVE_ALL": "8"}
    launcher = several if processes == 2 else {}
    done = recipe(script, world, tmp_path, **launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    stages = STAGES[script]
    for stage in stages:
        written = record(tmp_path / stage)
        assert written["processes"] == processes and written["config"]["training_args"]["bf16"] is True
        steps = read_metrics(tmp_path / stage / "metrics.jsonl")
        assert [line["step"] for line in steps if "eval_loss" in line] == [1, 2]
        answers = (tmp_path / stage / "samples.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in answers] == [1, 2]
    if processes == 2:  # the first stage's losses are those of one process
        printed = recipe(script, world, tmp_path / "alone", "--dry-run", "--only", stages[0]).stdout
        alone = run_training(compose("train", printed.split("train.py ")[1].split()))
        assert losses(tmp_path / stages[0]) == pytest.approx(losses(alone), rel=1e-3)
    whole = losses(tmp_path / stages[-1])
    fusion, whisper = (load_file(tmp_path / stage / "model.safetensors") for stage in (stages[-1], stages[0]))
    prefix = "audio_adapter.adapters.whisper."
    own = [name for name in whisper if name.startswith(prefix) and "num_batches" not in name]
    assert own and all((fusion[name] == whisper[name]).all() for name in own)
    (tmp_path / stages[-1] / "run.json").unlink()  # as if killed in the last stage
    shutil.rmtree(tmp_path / stages[-1] / "checkpoint-2")
    again = recipe(script, world, tmp_path, **launcher)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [f"{stage}: done" in again.stdout for stage in stages] == [True] * (len(stages) - 1) + [False]
    assert record(tmp_path / stages[-1])["resumed_from"].endswith("checkpoint-1")
    assert losses(tmp_path / stages[-1]) == whole  # bit for bit


@pytest.mark.parametrize("script", STAGES)
def test_stages_are_listed_and_chosen(script: str, world: Path, tmp_path: Path) -> None:
    listed = recipe(script, world, tmp_path, "--list")
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == STAGES[script]
    last = recipe(script, world, tmp_path, "--dry-run", "--from", STAGES[script][-1])
    assert len(last.stdout.splitlines()) == 1 and "freeze_adapters=true" in last.stdout
    assert f"pretrained_adapters_names={{whisper:{STAGES[script][0]}" in last.stdout
    assert "gradient_accumulation_steps=2 " in last.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--only", "fusoin"], {}, "no stage 'fusoin'; stages:"),
        (["--form", "x"], {}, "unknown argument '--form'"),
        (["--dry-run"], {"GPUS": "3"}, "cannot be shared by GPUS=3"),
    ],
)
def test_wrong_calls(
    world: Path, tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = recipe("train_alarm_ca.sh", world, tmp_path, *arguments, **environment)
    assert done.returncode == 2 and message in done.stderr
