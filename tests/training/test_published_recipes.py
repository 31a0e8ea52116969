"""The published training commands in miniature: bf16, evaluation, saves, sample answers, mixed sampling rates.

The options below are those of the published README and scripts. :func:`in_miniature` replaces what names sizes, data
and numbers of steps, and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.common.config import compose
from src.model.adapter_files import write_adapter
from src.model.checkpoints import open_checkpoint
from src.training.callbacks import read_metrics
from src.training.run import run_training
from tests.training.test_run import losses, record

pytestmark = pytest.mark.slow

TWO_GPUS = (
    "training_args.per_device_train_batch_size=2 training_args.per_device_eval_batch_size=2 "
    "training_args.gradient_accumulation_steps=8 training_args.num_train_epochs=2 training_args.eval_steps=5000 "
    "training_args.dataloader_num_workers=2 model.llm=Qwen/Qwen3-4B-Thinking-2507 model.llm_embedding_dim=2560 "
)
FOUR_GPUS = (
    "training_args.per_device_train_batch_size=4 training_args.per_device_eval_batch_size=4 "
    "training_args.gradient_accumulation_steps=4 training_args.num_train_epochs=2 training_args.eval_steps=20000 "
    "training_args.dataloader_num_workers=2 model.llm=Qwen/Qwen3-4B-Thinking-2507 model.llm_embedding_dim=2560 "
)
ADAPTERS = "pretrained_adapters_dir=data/pretrained_weights freeze_adapters=True "
COMMANDS = {
    "music_muq": TWO_GPUS + "model=muq dataset=music_4b",
    "speech_w2vbert": TWO_GPUS + "model=w2vbert dataset=speech_4b",
    "audio_sslam": TWO_GPUS + "model=sslam dataset=audio_4b",
    "alldataset_whisper": FOUR_GPUS + "model=whisper_batch dataset=all_4b",
    "faster_whisper": FOUR_GPUS + "model=whisper_batch dataset=all_4b_faster_eval sample_generations=false",
    "content_whisper": TWO_GPUS + "model=whisper_batch dataset=content_4b",
    "alldataset_alarm_ca": FOUR_GPUS + ADAPTERS + "model=alarm_ca dataset=all_4b",
    "alldataset_alarm_p": (
        FOUR_GPUS
        + ADAPTERS
        + 'model=alarm_p dataset=all_4b pretrained_adapters_names=["whisper"] frozen_adapters_names=["whisper"]'
    ),
}
"""Options of the trainings: the scripts' seven, and the faster one that a comment of theirs describes."""
NEEDS = {
    "alldataset_alarm_ca": ("alldataset_whisper", "speech_w2vbert", "audio_sslam", "music_muq"),
    "alldataset_alarm_p": ("content_whisper",),
}
BF16 = 0.02
"""Largest relative difference of a bf16 run's losses from the float32 run's. bfloat16 keeps 8 bits: every product is
off by up to 2**-9 (0.2 %), and some 20 of them, which mostly cancel, follow each other through 4 layers."""


def in_miniature(command: str, output: Path, adapters: Path) -> list[str]:
    """The options of ``command`` with a small model, the test's data, and two steps in all."""
    smaller = {
        "dataset": "mini",
        "model.llm": "assets/mini/llm",
        "model.llm_embedding_dim": "192",
        "training_args.eval_steps": "1",
        "pretrained_adapters_dir": str(adapters),
    }
    options = []
    for option in command.split():
        key, value = option.split("=", 1)
        if key == "model":
            value = f"mini_{value.removesuffix('_batch')}"
        options.append(f"{key}={smaller.get(key, value)}")
    if not any(option.startswith("sample_generations") for option in options):
        options.append("sample_generations=true")
    steps = ["max_steps=2", "save_steps=1", "warmup_steps=1", "logging_steps=1", f"output_dir={output}"]
    return [*options, "sample_tokens=4", *(f"training_args.{setting}" for setting in steps)]


Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """``train(name)`` runs a command once, those before it first; further options are further runs."""
    folder = tmp_path_factory.mktemp("published")
    done: dict[tuple[str, ...], Path] = {}

    def start(name: str, *extra: str, into: Path | None = None) -> Path:
        key = (name, *extra)
        if key not in done:
            for before in NEEDS.get(name, ()):  # as get_pretrained_adapters.py does
                encoder = before.split("_")[1]
                write_adapter(open_checkpoint(start(before)), encoder, folder / name / f"{encoder}.pth")
            output = into or folder / "_".join([name, *extra]).replace("=", "_")
            options = in_miniature(COMMANDS[name], output, folder / name)
            done[key] = run_training(compose("train", [*options, *extra]))
        return done[key]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small are slower on several, many times so beside other work
    yield start
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_published_command_trains_and_goes_on(name: str, train: Train, tmp_path: Path) -> None:
    folder = train(name)
    steps = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in steps if "loss" in line] == [1, 2]
    assert [line["step"] for line in steps if "eval_loss" in line] == [1, 2]
    assert record(folder)["config"]["training_args"]["bf16"] is True
    answers = folder / "samples.jsonl"
    if "sample_generations=false" in COMMANDS[name]:
        assert not answers.exists()
    else:
        assert [json.loads(line)["step"] for line in answers.read_text().splitlines()] == [1] * 5 + [2] * 5

    stopped = tmp_path / "stopped"
    shutil.copytree(folder / "checkpoint-1", stopped / "checkpoint-1")
    shutil.copy(folder / "metrics.jsonl", stopped)
    resumed = train(name, f"resume_from_checkpoint={stopped / 'checkpoint-1'}", into=stopped)
    assert losses(resumed) == losses(folder)  # bit for bit
    states = [load_file(each / "model.safetensors") for each in (folder, resumed)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", ["music_muq", "alldataset_alarm_ca", "alldataset_alarm_p"])
def test_losses_in_bf16_stay_near_those_in_float32(name: str, train: Train) -> None:
    whole = train(name, "training_args.bf16=false", "sample_generations=false")
    assert losses(train(name)) == pytest.approx(losses(whole), rel=BF16)
    assert losses(train(name)) != losses(whole)
    half, exact = (record(folder)["results"]["eval_mini_loss"] for folder in (train(name), whole))
    assert half == pytest.approx(exact, rel=BF16)


def test_frozen_adapters_are_those_of_the_runs_before(train: Train) -> None:
    fused = load_file(train("alldataset_alarm_p") / "model.safetensors")
    whisper = load_file(train("content_whisper") / "model.safetensors")
    own = [name for name in whisper if name.startswith("audio_adapter.adapters.whisper.")]
    assert own and all(torch.equal(fused[name], whisper[name]) for name in own)
