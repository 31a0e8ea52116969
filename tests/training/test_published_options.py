"""Commands, keys and YAML as users of the published system have them."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.common import config as common_config
from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.model.checkpoints import open_checkpoint
from src.model.published import model_config
from src.model.published_config import published_from_model_config
from src.training.config import TrainConfig, bind_model_config, bind_train_config
from tests.training.conftest import Run, overrides
from tests.training.test_run import losses

COMMON = (
    "training_args.per_device_train_batch_size=2 training_args.per_device_eval_batch_size=2 "
    "training_args.gradient_accumulation_steps=8 training_args.num_train_epochs=2 "
    "training_args.output_dir=saved/Qwen3-4B-Thinking-2507/NAME training_args.eval_steps=5000 "
    'training_args.dataloader_num_workers=2 model.llm="Qwen/Qwen3-4B-Thinking-2507" model.llm_embedding_dim=2560'
)
FUSION = "pretrained_adapters_dir=data/pretrained_weights freeze_adapters=True"
COMMANDS = [
    f"model=muq dataset=music_4b {COMMON}",
    f"model=w2vbert dataset=speech_4b {COMMON}",
    f"model=sslam dataset=audio_4b {COMMON}",
    f"model=whisper_batch dataset=all_4b {COMMON}",
    f"model=whisper_batch dataset=content_4b {COMMON}",
    f"model=alarm_ca dataset=all_4b {COMMON} {FUSION}",
    f"""model=alarm_p dataset=all_4b {COMMON} {FUSION} pretrained_adapters_names='["whisper"]' """
    """frozen_adapters_names='["whisper"]'""",
]


def bound(command: str) -> TrainConfig:
    return bind_train_config(compose("train", shlex.split(command)))


def arguments(config: TrainConfig) -> Any:
    from src.training.arguments import training_arguments

    return training_arguments(config)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split(" training_args")[0])
def test_the_documented_commands(command: str) -> None:
    config = bound(command)
    args = arguments(config)
    assert args.output_dir == "saved/Qwen3-4B-Thinking-2507/NAME"
    assert (args.num_train_epochs, args.eval_steps, args.save_steps, args.dataloader_num_workers) == (
        2,
        5000,
        5000,
        2,
    )
    assert (args.save_strategy, args.report_to, args.save_total_limit) == ("steps", ["tensorboard"], None)
    assert args.dataloader_drop_last and args.dataloader_persistent_workers and args.label_names == ["labels"]
    assert config.sample_generations is True
    assert bind_model_config(config).llm_embedding_dim == 2560
    if "freeze_adapters" in command:
        assert config.freeze_adapters and config.pretrained_adapters_dir == "data/pretrained_weights"
        chosen = ["whisper"] if "alarm_p" in command else None
        assert (config.pretrained_adapters_names, config.frozen_adapters_names) == (chosen, chosen)


@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_that_has_no_kernels_for_bfloat16_is_named(
    supported: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("src.training.arguments.computes_bfloat16", lambda device: supported or device != "cpu")
    with caplog.at_level(logging.WARNING):
        args = arguments(bound(f"{COMMANDS[0]} training_args.use_cpu=true"))
    assert args.bf16
    assert ("training_args.bf16=false" in caplog.text) == (not supported)


def test_keys_of_every_level_need_no_plus() -> None:
    command = (
        "model=whisper_batch dataset=music_4b training_args.weight_decay=0.1 "
        "+training_args.gradient_checkpointing=true training_args.optim=adafactor model.from_pretrained=saved/x "
        "model.config.use_explicit_audio_tokens=true "
        "alternative_data_dir=other eval_mode=true model_max_length=null freeze_fusion=true hydra.run.dir=. "
        "model.config.audio_postprocessing_config.postprocessing_type=identity model.config.audio_sep_d_embed=2560"
    )
    config = bound(command)
    args = arguments(config)
    assert (args.weight_decay, args.optim, args.gradient_checkpointing) == (0.1, "adafactor", True)
    assert bind_model_config(config).config.use_explicit_audio_tokens
    assert (config.alternative_data_dir, config.model_max_length) == ("other", None)
    assert config.model["from_pretrained"] == "saved/x"


def test_keys_of_an_older_transformers(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "x")
    command = (
        "model=whisper_batch dataset=music_4b training_args.overwrite_output_dir=false training_args.no_cuda=true "
        "training_args.save_safetensors=true training_args.evaluation_strategy=epoch "
        "training_args.warmup_steps=0 training_args.warmup_ratio=0.1 training_args.group_by_length=true "
        "training_args.fp16_backend=auto training_args.logging_dir=logs training_args.torchdynamo=null"
    )
    with caplog.at_level(logging.INFO):
        config = bound(command)
    [line] = {record.message for record in caplog.records if record.message.startswith("training_args: ")}
    for key in ("overwrite_output_dir", "no_cuda", "save_safetensors", "evaluation_strategy", "warmup_ratio"):
        assert key in line
    assert "torchdynamo" not in line
    args = arguments(config)
    assert (args.use_cpu, args.eval_strategy, args.warmup_steps) == (True, "epoch", 0.1)
    from src.training.arguments import step_plan

    assert step_plan(config).grouping == "across_steps"
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        arguments(bound("model=whisper_batch dataset=music_4b training_args.lerning_rate=1"))


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("max_steps", "abc", "int"), ("learning_rate", "high", "float"), ("num_train_epochs", "two", "float"),
     ("save_total_limit", "[1]", "int"), ("bf16", "yess", "bool"), ("logging_steps", "null", "float")],
)  # fmt: skip
def test_values_of_a_wrong_type_are_one_line(key: str, value: str, kind: str) -> None:
    config = bound(f"model=whisper_batch dataset=music_4b training_args.{key}={value}")
    with pytest.raises(ConfigError, match=rf"^training_args\.{key}: got .*, expected {kind}$"):
        arguments(config)


@pytest.mark.parametrize(
    ("given", "seed"),
    [("", 42), ("seed=7", 7), ("training_args.seed=7", 7), ("seed=7 training_args.seed=7", 7)],
)
def test_one_seed(given: str, seed: int) -> None:
    config = bound(f"model=whisper_batch dataset=music_4b {given}")
    assert (config.seed, arguments(config).seed) == (seed, seed)


def test_two_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed is 7 and training_args\.seed 8"):
        bound("model=whisper_batch dataset=music_4b seed=7 training_args.seed=8")


@pytest.fixture()
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``src/configs`` that a test may write into, as a user does into the original."""
    folder = tmp_path / "configs"
    shutil.copytree(common_config.CONFIG_DIR, folder)
    monkeypatch.setattr(common_config, "CONFIG_DIR", folder)
    return folder


def test_yaml_of_a_user_trains_unchanged(
    shared_run: Run, configs: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and data in the published form give the same losses as the same in ours."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
    model = published_from_model_config(model_config("mini_w2vbert"))
    model["config"]["audio_sep_d_embed"] = "${model.llm_embedding_dim}"
    (configs / "model" / "my_model.yaml").write_text(yaml.safe_dump(model))
    one = {
        "_target_": "src.dataset.HFDataset",
        "dataset_names": [["mini_rephrased_512_llm_512", "WithContext", 1.0, False]],
        "limit": None,
        "return_audio": True,
        "name": "mini",
    }
    data = {
        "groups": {"speech": ["mine"]},
        "train": {**one, "split": "train"},
        "mine": {**one, "split": "validation"},
    }
    (configs / "dataset" / "my_data.yaml").write_text(yaml.safe_dump(data))
    ours = shared_run(max_steps=2)
    from src.training.run import run_training

    words = overrides(world, configs.parent / "theirs", model="my_model", max_steps=2)
    theirs = run_training(compose("train", [word for word in words if word != "dataset=mini"] + ["dataset=my_data"]))
    assert losses(theirs) == losses(ours)
    assert open_checkpoint(theirs).config.config == open_checkpoint(ours).config.config
    assert json.loads((theirs / "run.json").read_text())["seed"] == 42


def test_another_data_directory(run: Run, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world / "datasets", tmp_path / "mydata" / "datasets")
    expected = losses(run("there", max_steps=1))
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="lack folders"):
        run("nowhere", max_steps=1)
    assert losses(run("here", f"alternative_data_dir={tmp_path / 'mydata'}", max_steps=1)) == expected


def test_the_sampler_can_drop_what_fills_no_batch() -> None:
    import numpy as np

    from src.dataset.sampler import StepPlan, StepSampler

    plan = StepPlan(4, 2, "none")
    kept = StepSampler(43, plan, None, 1, True, 0, 2)
    dropped = StepSampler(43, plan, None, 1, True, 0, 2, drop_last=True)
    rows = np.concatenate([np.concatenate(step) for step in dropped])
    assert len(kept) == len(dropped) == 3
    assert rows.size == 20  # half of 40: five batches of 4 for each of two processes
    first = [step for step, _ in zip(kept, range(2), strict=False)]
    assert [step for step, _ in zip(dropped, range(2), strict=False)] == first
    assert len(StepSampler(3, plan, None, 1, True, 0, 2, drop_last=True)) == 1  # fewer rows than a batch: kept
