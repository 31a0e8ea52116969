"""Whole small runs with LoRA: what they train, save and say, and how they go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.generation.ask import ask
from src.inference.transformers_backend import TransformersBackend
from src.model.checkpoints import open_checkpoint
from src.model.llm import load_llm, weights_digest
from src.model.lora import LoraConfig, lora_tensors
from src.model.lora_files import FILES
from src.training.config import bind_model_config, bind_train_config
from src.training.resume import missing_files
from tests.training.conftest import Run, overrides
from tests.training.test_run import CLIP, losses, record

LORA = ("lora.r=4", "lora.alpha=16", "lora.dropout=0.1", "lora.target_modules=[q_proj,v_proj,down_proj]")


def states(folder: Path) -> dict[str, torch.Tensor]:
    """All that was trained."""
    return load_file(folder / "model.safetensors") | load_file(folder / FILES[0])


def test_lora_is_trained_and_the_base_is_not(run: Run, shared_run: Run, world: Path) -> None:
    plain = shared_run(max_steps=3)
    folder = run("lora", *LORA, "random_weights=false", "model=mini_w2vbert", max_steps=3)
    digests = record(folder)["llm_digest"]
    assert digests["before"] == digests["after"] == weights_digest(load_llm(str(world / "llm"))[0])
    lora = load_file(folder / FILES[0])
    assert len(lora) == 2 * 2 * 3 and all(value.abs().max() > 0 for value in lora.values())
    assert open_checkpoint(folder).config.lora == LoraConfig(4, 16, 0.1, ("q_proj", "v_proj", "down_proj"))
    assert not (plain / "lora").exists() and open_checkpoint(plain).config.lora is None


def test_the_start_is_that_of_a_run_without(run: Run, shared_run: Run) -> None:
    """Zero layers: the first loss is the same, the later ones are not."""
    plain, lora = losses(shared_run(max_steps=3)), losses(run("lora", "+lora=default", max_steps=3))
    assert lora[0] == plain[0] and lora[-1] != plain[-1]


def test_kill_and_resume_gives_the_same_weights(run: Run) -> None:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = run("whole", *LORA, **options)
    stopped = run("half", *LORA, **options)
    for name in ("model.safetensors", "run.json", "alarm_config.json"):  # as if killed after step 5
        (stopped / name).unlink()
    shutil.rmtree(stopped / "checkpoint-6")
    (stopped / "checkpoint-4" / FILES[0]).unlink()
    assert missing_files(stopped / "checkpoint-4") == [FILES[0]] and not missing_files(stopped / "checkpoint-2")
    resumed = run("half", *LORA, "resume_from_checkpoint=true", **options)
    assert record(resumed)["resumed_from"].endswith("checkpoint-2")
    assert losses(resumed) == losses(whole)  # dropout of the layers included
    left, right = states(whole), states(resumed)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_beside_a_frozen_audio_embedder(run: Run) -> None:
    frozen = ("freeze_adapters=true", "freeze_fusion=true", "model.config.use_explicit_audio_tokens=true")
    with pytest.raises(ConfigError, match=r"nothing is left to train.*lora\.r"):
        run("nothing", *frozen)
    folder = run("lora", *frozen, "lora.r=8", max_steps=8, learning_rate=1e-2)
    assert losses(folder)[-1] < losses(folder)[0]


def test_half_precision_and_recomputed_layers(run: Run) -> None:
    folder = run("half", *LORA, "+training_args.gradient_checkpointing=true", bf16=True, max_steps=3)
    assert {value.dtype for value in load_file(folder / FILES[0]).values()} == {torch.float32}
    digests = record(folder)["llm_digest"]
    assert digests["before"] == digests["after"]
    assert all(".base_layer." not in name and "wrapped" not in name for name in load_file(folder / FILES[0]))


def test_evaluation_and_answers(run: Run) -> None:
    trained = run(
        "trained", *LORA, "sample_generations=2", "sample_tokens=4", eval_strategy="steps", eval_steps=6,
        save_strategy="steps", save_steps=6,
    )  # fmt: skip
    expected = record(trained)["results"]["eval_mini_loss"]
    checkpoint = f"resume_from_checkpoint={trained / 'checkpoint-6'}"
    folder = run("evaluated", *LORA, "eval_mode=true", checkpoint)
    assert json.loads((folder / "eval.json").read_text())["eval_mini_loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"trained with LoRA; give lora\.r=4 lora\.alpha=16"):
        run("evaluated without", "eval_mode=true", checkpoint)


def test_the_checkpoint_answers_with_its_lora(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Recorded(TransformersBackend):
        def __init__(self, llm: Any) -> None:
            asked.append(llm)
            super().__init__(llm)

    monkeypatch.setattr("src.generation.ask.TransformersBackend", Recorded)
    trained = run("trained", *LORA, max_steps=2)
    limits = ["model.max_tokens=6", "model.max_thinking_tokens=-1", "greedy=true"]
    list(ask(str(CLIP), "what?", compose("ask", [f"checkpoint_name={trained}", *limits])))
    expected = load_file(trained / FILES[0])
    held = lora_tensors(asked[0])
    assert held.keys() == expected.keys() and all(torch.equal(held[name], expected[name]) for name in held)


def test_options(world: Path, tmp_path: Path) -> None:
    def lora(*extra: str) -> LoraConfig | None:
        return bind_model_config(bind_train_config(compose("train", overrides(world, tmp_path, *extra)))).lora

    assert lora() is None and lora("lora.r=null") is None
    assert lora("+lora=default") == LoraConfig(r=16, alpha=32)
    assert lora("+lora=default", "lora.r=8") == LoraConfig(r=8, alpha=32)
    assert lora("lora.r=8") == LoraConfig(r=8, alpha=16)
    for wrong, message in {
        "lora.alpha=8": "lora.alpha: has no effect without lora.r",
        "lora.r=0": "lora: r is 0",
        "lora.r=big": "lora.r: got 'big'",
        "+lora.rank=4": "lora.rank",
        "+model.lora.r=4": "model.lora: set lora itself",
    }.items():
        with pytest.raises(ConfigError, match=message):
            lora(wrong)
    with pytest.raises(ConfigError, match=r"lora: target_modules is 'q_proj', expected a list such as \[q_proj\]"):
        lora("lora.r=2", "lora.target_modules=q_proj")
