"""Trackers: what they hold after a run, and one message for what is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import ConfigError, UserError
from src.training.trackers import check_trackers
from tests.support.wandb_file import read_wandb
from tests.training.conftest import Run
from tests.training.test_run import losses

SAVE = {"save_strategy": "steps", "save_steps": 3}


def scalars(folder: Path) -> dict[str, Any]:
    """Tag -> step -> value of a TensorBoard folder, and the configuration under ``config``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()
    values = {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in tags["scalars"]}
    values.pop("train/epoch", None)  # comes with every line, whatever the line tells of
    assert all(len(values[tag]) == len(found.Scalars(tag)) for tag in values), "a step is there twice"
    texts = found.Tensors("config/text_summary")
    return values | {"config": texts[0].tensor_proto.string_val[0].decode()}


def test_tensorboard_holds_metrics_and_configuration(
    run: Run, shared_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(
        "board",
        "sample_generations=2",
        "sample_tokens=4",
        report_to="tensorboard",
        eval_strategy="steps",
        eval_steps=3,
        **SAVE,
    )
    found = scalars(folder / "tensorboard")
    assert list(found["train/loss"].values()) == pytest.approx(losses(folder))
    assert {"train/clips_per_second", "train/rows_replaced", "train/learning_rate"} <= set(found)
    assert set(found["eval/mini_loss"]) == set(found["eval/loss"]) == set(found["eval/with_context_bleu"]) == {3, 6}
    assert "per_device_train_batch_size: 4" in found["config"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board"]  # nothing outside the run's folder
    assert losses(folder) == losses(shared_run())


def test_tensorboard_of_a_resumed_run_is_one_curve(run: Run) -> None:
    first = run("resumed", report_to="tensorboard", **SAVE)
    again = f"resume_from_checkpoint={first / 'checkpoint-3'}"
    run("resumed", again, report_to="tensorboard", **SAVE)
    assert sorted(scalars(first / "tensorboard")["train/loss"]) == [1, 2, 3, 4, 5, 6]


def test_tensorboard_of_an_evaluation_lies_in_its_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run("evaluated", "eval_mode=true", report_to="tensorboard")
    assert "eval/mini_loss" in scalars(folder / "tensorboard")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluated"]


def test_wandb_offline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    answers = ("sample_generations=2", "sample_tokens=4")
    folder = run("tracked", *answers, report_to="wandb", project="hearing", model="mini_alarm_ca", **SAVE)
    config, history, identity = read_wandb(folder / "wandb")
    assert (identity["project"], identity["name"]) == ("hearing", "tracked")
    assert config["config"]["dataset"]["name"] == "mini" and config["config"]["sample_tokens"] == 4
    tracked = [line["train/loss"] for line in history if "train/loss" in line]
    assert tracked == losses(folder) and len(tracked) == 6
    assert [line["train/global_step"] for line in history if "eval/with_context_bleu" in line] == [3, 6]
    assert losses(folder) == losses(run("plain", *answers, model="mini_alarm_ca", **SAVE))

    again = f"resume_from_checkpoint={folder / 'checkpoint-3'}"
    run("tracked", again, report_to="wandb", run_name="mine", model="mini_alarm_ca", **SAVE)
    _, _, resumed = read_wandb(folder / "wandb")
    assert resumed["id"] == identity["id"] and resumed["name"] == "mine"


def test_wandb_that_cannot_start_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**options: Any) -> None:
        raise wandb.errors.UsageError("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="W&B cannot start: api_key not configured. Log in .* WANDB_MODE=offline"):
        run("refused", "model.llm=/nowhere", report_to="wandb")  # before anything is loaded


def test_a_tracker_that_is_not_installed_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a))
    with pytest.raises(ConfigError, match="asks for wandb, not installed here: pip install wandb"):
        run("absent", "model.llm=/nowhere", report_to="wandb")
    with pytest.raises(ConfigError, match="asks for wandb"):
        check_trackers(["tensorboard", "wandb"])


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown wandbe; known: none, all, .*tensorboard"):
        check_trackers(["wandbe"])
    check_trackers(None)
    check_trackers("none")
