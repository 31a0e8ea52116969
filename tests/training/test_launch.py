"""The published command: ``accelerate launch`` with one and two processes on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.common.paths import REPO_ROOT
from tests.training.conftest import overrides
from tests.training.test_run import losses, record

pytestmark = [pytest.mark.launch, pytest.mark.slow]


def launch(world: Path, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run train.py under ``accelerate launch``."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes == 1:
        command += ["--quiet", "--config-file", "src/configs/accelerate/single.yaml"]
    else:
        command += ["--config-file", "src/configs/accelerate/cpu.yaml", "--num-processes", str(processes)]
    command += ["train.py", *options]
    environment = {**os.environ, "ALARM_DATA_ROOT": str(world / "datasets"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPO_ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_two_processes_equal_one(world: Path, tmp_path: Path) -> None:
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path / f"run{processes}"
        options = overrides(
            world,
            folders[processes],
            "sample_generations=3",
            "sample_tokens=4",
            per_device_train_batch_size=4 // processes,
            gradient_accumulation_steps=2,
            max_steps=5,
            eval_strategy="steps",
            eval_steps=5,
            per_device_eval_batch_size=3,
            save_strategy="steps",
            save_steps=2,
            report_to="tensorboard",
        )  # five steps of eight clips: the second epoch begins, and its last batch is not shared evenly
        done = launch(world, processes, *options)
        assert done.returncode == 0, done.stderr[-3000:]
    assert record(folders[2])["processes"] == 2
    assert record(folders[2])["counts"]["clips"] == record(folders[1])["counts"]["clips"]
    assert losses(folders[2]) == pytest.approx(losses(folders[1]), rel=1e-4)
    results = [record(folder)["results"] for folder in folders.values()]
    assert results[0]["eval_mini_loss"] == pytest.approx(results[1]["eval_mini_loss"], rel=1e-4)
    assert results[0]["eval_mini_tokens"] == results[1]["eval_mini_tokens"]
    for folder in folders.values():  # answered and tracked by the first process alone, at steps 2, 4 and 5
        assert len((folder / "samples.jsonl").read_text().splitlines()) == 9
        assert len(list((folder / "tensorboard").iterdir())) == 1
        assert (folder / "curves.html").is_file()
    states = [load_file(folder / "model.safetensors") for folder in folders.values()]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_killed_run_goes_on_with_the_same_losses(world: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever moment follows the second checkpoint, with workers that decode ahead."""
    settings = {"max_steps": 40, "save_strategy": "steps", "save_steps": 5, "dataloader_num_workers": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert launch(world, 1, *overrides(world, whole, **settings)).returncode == 0
    command = [sys.executable, "train.py", *overrides(world, killed, "resume_from_checkpoint=true", **settings)]
    environment = {**os.environ, "ALARM_DATA_ROOT": str(world / "datasets"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPO_ROOT, env=environment, start_new_session=True) as running:
        while not (killed / "checkpoint-10").exists() and running.poll() is None:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (killed / "run.json").exists()
    assert subprocess.run(command, cwd=REPO_ROOT, env=environment, timeout=600).returncode == 0
    assert record(killed)["resumed_from"]
    assert losses(killed) == losses(whole)  # bit for bit


@pytest.mark.parametrize("processes", [1, 2])
def test_a_misspelt_key_is_one_message(world: Path, tmp_path: Path, processes: int) -> None:
    done = launch(world, processes, *overrides(world, tmp_path / "x"), "freeze_adaptors=true")
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1 and "freeze_adaptors" in ours[0]
    if processes == 1:  # with more, the launcher tells which of them failed
        assert "Traceback" not in done.stderr


def test_a_misspelt_key_without_launcher(world: Path, tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *overrides(world, tmp_path / "x"), "freeze_adaptors=true"]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
