"""Runs that start from, continue or evaluate checkpoints of the published system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.common.errors import ConfigError, UserError
from src.model.adapter_files import write_adapter
from src.model.checkpoints import CONFIG_FILE, open_checkpoint
from src.model.export import export_published
from src.training.callbacks import read_metrics
from src.training.published_resume import OPTIMIZER, SCHEDULER
from src.training.resume import ROWS_FILE, find_resume
from tests.training.conftest import Run
from tests.training.test_run import SAVED, losses, record

QUIET = "sample_generations=false"
SAVING: Mapping[str, Any] = {"save_strategy": "steps", "save_steps": 3}


@pytest.fixture()
def trained(shared_run: Run, tmp_path: Path) -> Path:
    """Six steps of the sum of an adapter's stream, with checkpoints at steps 3 and 6."""
    return shutil.copytree(shared_run(**SAVED), tmp_path / "trained")


def as_published(source: Path, folder: Path) -> Path:
    """A ``checkpoint-N`` of ours in the published form: no file of ours, the Trainer's files beside the weights."""
    export_published(open_checkpoint(source), folder)
    (folder / CONFIG_FILE).unlink()
    for file in ("trainer_state.json", OPTIMIZER, SCHEDULER):
        if (source / file).is_file():
            shutil.copy2(source / file, folder / file)
    (folder / "rng_state.pth").write_bytes(b"of other programs")
    (folder / "training_args.bin").write_bytes(b"a pickle, never read")
    return folder


def rates(folder: Path) -> list[float]:
    return [line["learning_rate"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_a_published_checkpoint_continues(
    run: Run, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights, step, schedule and optimizer: the curve goes on as that of the run that was not interrupted."""
    checkpoint = as_published(trained / "checkpoint-3", tmp_path / "published" / "checkpoint-3")
    with caplog.at_level("INFO"):
        resumed = run("resumed", QUIET, f"resume_from_checkpoint={checkpoint}")
    assert "weights, step, schedule and optimizer are continued" in caplog.text
    assert losses(resumed) == losses(trained)[3:] and rates(resumed) == rates(trained)[3:]
    assert record(resumed)["resumed_from"] == str(checkpoint)
    left, right = load_file(trained / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)
    last = run("published", QUIET, "resume_from_checkpoint=true", **SAVING)  # in its own folder: goes on with ours
    assert losses(last) == losses(trained)[3:] and (last / "checkpoint-6" / CONFIG_FILE).is_file()


class Trap:
    """Pickled, it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_an_optimizer_that_cannot_be_read_starts_fresh(
    run: Run, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = as_published(trained / "checkpoint-3", tmp_path / "published" / "checkpoint-3")
    state = torch.load(checkpoint / OPTIMIZER, weights_only=True)
    key = next(key for key, value in state["state"].items() if value["exp_avg"].ndim == 2)
    state["state"][key]["exp_avg"] = torch.zeros(3, 5)
    torch.save(state, checkpoint / OPTIMIZER)
    (checkpoint / SCHEDULER).unlink()
    resumed = run("misshapen", QUIET, f"resume_from_checkpoint={checkpoint}")
    assert f"exp_avg of parameter {key} is (3, 5), the parameter" in caplog.text
    assert "schedule is continued by counting 3 steps" in caplog.text
    assert rates(resumed) == pytest.approx(rates(trained)[3:])
    assert losses(resumed)[0] == losses(trained)[3]  # the first loss is before the first step
    assert losses(resumed)[2] != losses(trained)[5]
    trap = tmp_path / "executed"
    torch.save({"state": {}, "param_groups": Trap(trap)}, checkpoint / OPTIMIZER)
    assert losses(run("trapped", QUIET, f"resume_from_checkpoint={checkpoint}")) == losses(resumed)
    assert not trap.exists() and "without running code from it" in caplog.text


def test_every_form_is_evaluated(run: Run, trained: Path, tmp_path: Path) -> None:
    """The final folder, a checkpoint-N, and the published form, by either key, give the loss of the run itself."""
    expected = record(trained)["results"]["eval_mini_loss"]
    whole = as_published(trained, tmp_path / "whole")
    for number, source in enumerate((trained, trained / "checkpoint-6", whole)):
        for key in ("resume_from_checkpoint", "model.from_pretrained"):
            folder = run(f"{key}_{number}", QUIET, "eval_mode=true", f"{key}={source}")
            result = json.loads((folder / "eval.json").read_text())["eval_mini_loss"]
            assert result == pytest.approx(expected, rel=1e-5), (source, key)
    with pytest.raises(UserError, match="no such folder"):
        run("nothing", QUIET, "eval_mode=true", f"resume_from_checkpoint={tmp_path / 'nowhere'}")


def test_a_run_starts_from_a_whole_model(run: Run, tmp_path: Path) -> None:
    """Fusion, separators and configuration come from the checkpoint; steps, schedule and optimizer start fresh."""
    settings = {"model": "mini_alarm_ca", "max_steps": 2}
    skip = "model.config.audio_fusion_config.use_skip_connection=true"
    first = run("first", QUIET, skip, **settings)
    whole = as_published(first, tmp_path / "whole")
    still = ("freeze_adapters=true", "freeze_fusion=true", "training_args.learning_rate=0")
    for name, source in (("ours", first), ("theirs", whole)):
        second = run(name, QUIET, f"model.from_pretrained={source}", *still, **settings)
        left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
        assert open_checkpoint(second).config.config.audio_fusion_config.use_skip_connection
        assert [line["step"] for line in read_metrics(second / "metrics.jsonl") if "loss" in line] == [1, 2]
    with pytest.raises(UserError, match="use_skip_connection was True, is False.*model.from_pretrained"):
        run("other", QUIET, "eval_mode=true", f"resume_from_checkpoint={whole}", model="mini_alarm_ca")


def test_adapters_from_a_folder_of_pth_files(run: Run, shared_run: Run, tmp_path: Path) -> None:
    names = ("whisper", "w2vbert", "sslam", "muq")
    runs = {name: shared_run(model=f"mini_{name}", max_steps=1) for name in names}
    for name, folder in runs.items():
        write_adapter(open_checkpoint(folder), name, tmp_path / "weights" / f"{name}.pth")
    settings = {"model": "mini_alarm_ca", "max_steps": 1}
    everything = (QUIET, f"pretrained_adapters_dir={tmp_path / 'weights'}", "freeze_adapters=True")
    fused = load_file(run("all", *everything, **settings) / "model.safetensors")
    chosen = run("some", *everything, 'pretrained_adapters_names=["whisper"]', 'frozen_adapters_names=["whisper"]',
                 **settings)  # fmt: skip
    some = load_file(chosen / "model.safetensors")
    for name, folder in runs.items():
        prefix = f"audio_adapter.adapters.{name}."
        own = {key: value for key, value in load_file(folder / "model.safetensors").items() if key.startswith(prefix)}
        assert own and all(torch.equal(value, fused[key]) for key, value in own.items())
        assert all(torch.equal(value, some[key]) for key, value in own.items()) == (name == "whisper")
    with pytest.raises(ConfigError, match="has no effect without pretrained_adapters_dir"):
        run("no folder", QUIET, "pretrained_adapters_names=[whisper]", **settings)
    with pytest.raises(ConfigError, match="pretrained_adapters_names: unknown clap; known: muq"):
        run("clap", *everything, "pretrained_adapters_names=[clap]", **settings)
    (tmp_path / "weights" / "muq.pth").unlink()
    with pytest.raises(ConfigError, match=r"has no muq\.pth and no folder muq"):
        run("missing", *everything, **settings)


def test_torn_checkpoints_are_passed_over(run: Run, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut in half: each file of the newest checkpoint in turn. The older one is taken, with a warning."""
    newest = trained / "checkpoint-6"
    for file in (
        OPTIMIZER, SCHEDULER, "rng_state.pth", "model.safetensors", CONFIG_FILE, "trainer_state.json", ROWS_FILE,
    ):  # fmt: skip
        whole = (newest / file).read_bytes()
        (newest / file).write_bytes(whole[: len(whole) // 2])
        assert find_resume(True, trained) == trained / "checkpoint-3", file
        readable = "readable weights" if file == "model.safetensors" else f"a readable {file}"
        assert f"checkpoint-6 is passed over: it lacks {readable}" in caplog.text
        (newest / file).write_bytes(whole)
    assert find_resume(True, trained) == newest
