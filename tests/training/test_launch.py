"""The published command: ``accelerate launch`` with one and two processes on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.common.paths import REPO_ROOT
from src.common.run_record import read_starts
from src.training.batch_search import FILE
from tests.training.conftest import Run, overrides
from tests.training.test_run import losses, record

pytestmark = [pytest.mark.launch, pytest.mark.slow]


def launched(world: Path, options: list[str], config: str, *launcher: str) -> subprocess.Popen[str]:
    """Start train.py under ``accelerate launch`` with options for the launcher itself."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config-file", f"src/configs/accelerate/{config}.yaml", *launcher, "train.py", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPO_ROOT, env=environment(world), stdout=pipe, stderr=pipe, text=True)


def environment(world: Path) -> dict[str, str]:
    return {**os.environ, "ALARM_DATA_ROOT": str(world / "datasets"), "OMP_NUM_THREADS": "1"}


def launch(
    world: Path, processes: int, *options: str, config: str = "cpu", program: str = "train.py"
) -> subprocess.CompletedProcess[str]:
    """Run train.py under ``accelerate launch``."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes == 1:
        command += ["--quiet", "--config-file", "src/configs/accelerate/single.yaml"]
    else:
        command += ["--config-file", f"src/configs/accelerate/{config}.yaml", "--num-processes", str(processes)]
    command += [program, *options]
    return subprocess.run(command, cwd=REPO_ROOT, env=environment(world), capture_output=True, text=True, timeout=600)


def sharding_settings(processes: int, steps: int, **more: Any) -> dict[str, Any]:
    """Arguments of a run on ``processes`` that saves and evaluates at step 3, with eight clips a step in all."""
    return {
        "max_steps": steps,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 4 // processes,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        **more,
    }


def test_two_processes_equal_one(world: Path, run: Run, tmp_path: Path) -> None:
    answering = ("sample_generations=3", "sample_tokens=4")
    settings = {
        "gradient_accumulation_steps": 2,
        "max_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "per_device_eval_batch_size": 3,
        "save_strategy": "steps",
        "save_steps": 2,
        "report_to": "tensorboard",
    }  # five steps of eight clips: the second epoch begins, and its last batch is not shared evenly
    folders = {1: run("one", *answering, per_device_train_batch_size=4, **settings), 2: tmp_path / "two"}
    done = launch(world, 2, *overrides(world, folders[2], *answering, per_device_train_batch_size=2, **settings))
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


def test_two_processes_find_one_size_of_micro_batches(world: Path, run: Run, tmp_path: Path) -> None:
    """``max_batch_positions=auto`` in both, packed, with accumulation: the losses of one process with plain rows."""
    settings = {"gradient_accumulation_steps": 2, "max_steps": 3, "lr_scheduler_type": "constant"}
    plain = run("plain", per_device_train_batch_size=4, **settings)
    auto = ("max_batch_positions=auto", "batch_search.positions=300", "packing=true")
    options = overrides(world, tmp_path / "two", *auto, per_device_train_batch_size=2, **settings)
    done = launch(world, 2, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    size = json.loads((tmp_path / "two" / FILE).read_text())["max_batch_positions"]
    assert 100 < size <= 300
    assert (done.stdout + done.stderr).count(f"max_batch_positions=auto: {size} positions") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(plain), rel=1e-4)


def test_a_sharded_model_trains_and_goes_on_like_a_whole_one(world: Path, run: Run, tmp_path: Path) -> None:
    """FSDP on two processes: the losses, files and resumed curve of one process, in both directions."""

    def train(name: str, processes: int, steps: int) -> Path:
        extra = ("sample_generations=2", "sample_tokens=3", "resume_from_checkpoint=true")
        settings = sharding_settings(processes, steps)
        if processes == 1:
            run(name, *extra, **settings)
        else:
            options = overrides(world, tmp_path / name, *extra, **settings)
            done = launch(world, processes, *options, config="fsdp", program="tests/support/fsdp_on_cpu.py")
            assert done.returncode == 0, done.stderr[-3000:]
        assert record(tmp_path / name)["distributed"] == ("FSDP" if processes > 1 else "NO")
        return tmp_path / name

    whole, shared = train("whole", 1, 6), train("shared", 2, 3)
    files = [{path.name for path in (folder / "checkpoint-3").iterdir()} for folder in (whole, shared)]
    assert files[0] - {"rng_state.pth"} == files[1] - {"rng_state_0.pth", "rng_state_1.pth"}
    first, other = (load_file(folder / "checkpoint-3" / "model.safetensors") for folder in (whole, shared))
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4, msg=name)
    answers = [(folder / "samples.jsonl").read_text().splitlines()[:2] for folder in (whole, shared)]
    assert answers[0] == answers[1] and len(answers[0]) == 2
    assert record(shared)["llm_digest"]["after"] == record(whole)["llm_digest"]["after"]
    shutil.copytree(shared, tmp_path / "moved")
    for folder in (train("shared", 2, 6), train("moved", 1, 6)):
        assert record(folder)["resumed_from"].endswith("checkpoint-3")
        assert losses(folder) == pytest.approx(losses(whole), rel=1e-3)
        assert record(folder)["results"]["eval_mini_loss"] == pytest.approx(
            record(whole)["results"]["eval_mini_loss"], rel=1e-3
        )


def test_deepspeed_trains_and_goes_on_like_a_whole_model(world: Path, tmp_path: Path) -> None:
    """ZeRO-2 on two processes: the losses and files of one process, and a curve that goes on in both directions."""
    pytest.importorskip("deepspeed", reason="requirements-deepspeed.txt is not installed")

    def train(name: str, processes: int, steps: int) -> Path:
        extra = ("sample_generations=1", "sample_tokens=3", "resume_from_checkpoint=true")
        settings = sharding_settings(processes, steps, max_grad_norm=0.1)
        options = overrides(world, tmp_path / name, *extra, **settings)
        done = launch(world, processes, *options, config="deepspeed")
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / name

    whole, shared = train("whole", 1, 6), train("shared", 2, 3)
    assert record(shared)["distributed"] == "DEEPSPEED"
    files = [{path.name for path in (folder / "checkpoint-3").iterdir()} for folder in (whole, shared)]
    assert files[0] - {"rng_state.pth"} == files[1] - {"rng_state_0.pth", "rng_state_1.pth"}
    shutil.copytree(shared, tmp_path / "moved")
    for folder in (train("shared", 2, 6), train("moved", 1, 6)):
        assert losses(folder) == pytest.approx(losses(whole), rel=1e-4)
        assert record(folder)["results"]["eval_mini_loss"] == pytest.approx(
            record(whole)["results"]["eval_mini_loss"], rel=1e-4
        )


def test_two_machines_equal_one(world: Path, shared_run: Run, tmp_path: Path) -> None:
    """The same command for each machine, here two launchers over the loopback."""
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    one, two = shared_run(per_device_train_batch_size=4, **settings), tmp_path / "two"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = overrides(world, two, per_device_train_batch_size=2, **settings)
    machines = [
        launched(
            world,
            options,
            "multinode",
            "--num-machines",
            "2",
            "--num-processes",
            "2",
            "--machine-rank",
            str(rank),
            "--main-process-port",
            str(port),
        )
        for rank in (0, 1)
    ]
    for machine in machines:
        _, said = machine.communicate(timeout=300)
        assert machine.returncode == 0, said[-3000:]
    assert record(two)["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_a_killed_run_goes_on_with_the_same_losses(world: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever moment follows the second checkpoint, with workers that decode ahead."""
    settings = {"max_steps": 40, "save_strategy": "steps", "save_steps": 5, "dataloader_num_workers": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert launch(world, 1, *overrides(world, whole, **settings)).returncode == 0
    command = [sys.executable, "train.py", *overrides(world, killed, "resume_from_checkpoint=true", **settings)]
    with subprocess.Popen(command, cwd=REPO_ROOT, env=environment(world), start_new_session=True) as running:
        while not (killed / "checkpoint-10").exists() and running.poll() is None:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (killed / "run.json").exists()
    (first,) = read_starts(killed)
    assert first["git"]["commit"] and first["versions"]["torch"] and first["config"]["dataset"]["name"] == "mini"
    assert subprocess.run(command, cwd=REPO_ROOT, env=environment(world), timeout=600).returncode == 0
    assert record(killed)["resumed_from"]
    assert [start["resumed_from"] for start in read_starts(killed)] == [None, record(killed)["resumed_from"]]
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
