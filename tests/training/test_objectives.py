"""Objectives of a run: options, distillation from the descriptions of a corpus, a class of one's own."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.common.naming import ResponseName
from src.common.paths import REPO_ROOT, responses_dir
from src.dataset.examples import collate
from src.model.distillation import Distillation, DistillationConfig
from src.model.objective import ObjectiveConfig
from src.prompts.chat import chat_ids
from src.prompts.messages import self_generation_messages
from src.prompts.prompt_sets import choose_prompts
from src.training.build import build_model, open_data
from src.training.callbacks import read_metrics
from src.training.config import TrainConfig, bind_train_config
from tests.support.tiny_llm import save_lively_llm
from tests.training.conftest import Run, overrides
from tests.training.test_launch import launch
from tests.training.test_run import losses, record


def bound(world: Path, *extra: str) -> TrainConfig:
    return bind_train_config(compose("train", overrides(world, world / "unused", *extra)))


def test_options(world: Path) -> None:
    assert bound(world).objective == ObjectiveConfig("ce")
    assert bound(world, "objective=kl").objective == DistillationConfig()
    mixed = bound(world, "objective=kl", "objective.temperature=2", "objective.top_k=64", "objective.ce_weight=0.5")
    assert mixed.objective == DistillationConfig(temperature=2.0, top_k=64, ce_weight=0.5)
    assert bound(world, "objective.name=kl", "objective.direction=reverse").objective.direction == "reverse"  # type: ignore[attr-defined]
    for wrong, message in {
        "objective=mse": "objective.name: unknown objective 'mse'; known: ce, .*kl",
        "objective.temperature=2": "temperature has no effect with name 'ce'",
        "objective=no.such:Thing": "objective.name: no.such:Thing cannot be imported",
        "objective=src.model.lora:LoraConfig": "is no objective; derive it from src.model.objective.Objective",
    }.items():
        with pytest.raises(ConfigError, match=message):
            bound(world, wrong)
    for wrong, message in {
        "objective.temperature=hot": "objective.temperature: got 'hot'",
        "objective.direction=both": "objective.direction: got 'both'; known: forward, reverse",
        "objective.tau=2": "objective.tau: unknown key",
        "objective.top_k=0": "objective: top_k is 0",
    }.items():
        with pytest.raises(ConfigError, match=message):
            bound(world, "objective=kl", wrong)


def test_the_teacher_reads_the_prompt_of_self_generation(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
    config = bound(world, "objective=kl", "prompts=mini")
    built = build_model(config)
    train = open_data(config, built.tokenizer, built.config).train
    assert train is not None and isinstance(built.model.objective, Distillation)
    row, example = train.rows[3], train[3]
    system, user = self_generation_messages(choose_prompts({"name": "mini"}), row.audio_description, row.context)
    assert row.audio_description and row.context in user["content"] and row.audio_description in user["content"]
    assert example.description == chat_ids(built.tokenizer, system["content"], user["content"])
    assert collate([example]).descriptions == [example.description]
    plain = open_data(bound(world), built.tokenizer, built.config).train
    assert plain is not None and plain[3].description == []


def test_a_run_and_its_evaluation(run: Run, world: Path, tmp_path: Path) -> None:
    lively = save_lively_llm(world / "llm", tmp_path / "lively" / "llm")
    settings = {"eval_strategy": "steps", "eval_steps": 4, "learning_rate": 1e-3, "max_steps": 8, "bf16": True}
    options = ("objective=kl", "lora.r=4", f"model.llm={lively}", "random_weights=false")
    folder = run("kl", *options, "sample_generations=1", "sample_tokens=3", **settings)
    curve, results = losses(folder), record(folder)["results"]
    assert len(curve) == 8 and curve[-1] < curve[0] and all(math.isfinite(loss) for loss in curve)
    assert record(folder)["config"]["objective"]["name"] == "kl"
    assert results["eval_mini_kl_loss"] == pytest.approx(results["eval_mini_loss"], rel=1e-4)
    assert results["eval_mini_ce_loss"] > results["eval_mini_kl_loss"] > 0
    assert results["eval_kl_loss"] == results["eval_mini_kl_loss"]
    logged = [line for line in read_metrics(folder / "metrics.jsonl") if "eval_kl_loss" in line]
    assert [line["step"] for line in logged] == [4, 8]
    assert "mini_kl" in (folder / "curves.html").read_text()
    assert record(folder)["llm_digest"]["before"] == record(folder)["llm_digest"]["after"]


def test_the_evaluation_of_cross_entropy_is_that_of_a_run_with_it(run: Run) -> None:
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 0.0}
    plain, mixed = (
        record(run(name, *extra, **settings))["results"]
        for name, extra in {"ce": (), "mixed": ("objective=kl", "objective.ce_weight=0.25")}.items()
    )
    assert mixed["eval_mini_ce_loss"] == pytest.approx(plain["eval_mini_loss"], rel=1e-5)
    expected = 0.25 * mixed["eval_mini_ce_loss"] + 0.75 * mixed["eval_mini_kl_loss"]
    assert mixed["eval_mini_loss"] == pytest.approx(expected, rel=1e-5)
    assert "eval_mini_ce_loss" not in plain


@pytest.mark.parametrize("more", [("length_grouping=none",), ("max_batch_positions=600",)])
def test_micro_batches_add_up(run: Run, more: tuple[str, ...]) -> None:
    whole = run("whole", "objective=kl", "objective.ce_weight=0.2", per_device_train_batch_size=8, max_steps=2)
    options = ("objective=kl", "objective.ce_weight=0.2", *more)
    split = run("split", *options, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2)
    assert losses(split) == pytest.approx(losses(whole), rel=1e-4)


def test_teacher_passes_of_earlier_epochs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty rows in steps of sixteen: the second epoch reads nothing new, and the losses stay the same."""
    made: list[Distillation] = []
    start = Distillation.__init__

    def recorded(self: Distillation, config: DistillationConfig) -> None:
        start(self, config)
        made.append(self)

    monkeypatch.setattr(Distillation, "__init__", recorded)
    options = {"per_device_train_batch_size": 16, "max_steps": 4}
    plain = run("plain", "objective=kl", **options)
    cached = run("cached", "objective=kl", "objective.cache_mb=64", **options)
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-5)
    assert made[0].cache.reused == 0 and made[1].cache.reused > 0


def test_rows_without_a_description(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "datasets"
    shutil.copytree(world / "datasets", root)
    monkeypatch.setenv("ALARM_DATA_ROOT", str(root))
    name = ResponseName.parse("mini_rephrased_512_llm_512")
    folder = responses_dir(name.model, "mini_rephrased_512_llm_512")
    stored = load_from_disk(str(folder))
    emptied = stored.map(
        lambda row, index: {"audio_description": row["audio_description"] * (index >= 3)}, with_indices=True
    )
    raw = load_from_disk(str(root / "raw" / "mini"))
    for changed, path in ((emptied, folder), (raw.remove_columns("audio_description"), root / "raw" / "mini")):
        changed.save_to_disk(str(tmp_path / "new"))
        shutil.rmtree(path)
        shutil.move(tmp_path / "new", path)
    config = bound(world, "objective=kl")
    built = build_model(config)
    with pytest.raises(UserError, match=r"'audio_description'.*mini_rephrased_512_llm_512: \d+ of \d+"):
        open_data(config, built.tokenizer, built.config)
    data = open_data(bound(world, "objective=kl", "objective.without_description=ce"), built.tokenizer, built.config)
    assert data.train is not None and any(not data.train[index].description for index in range(len(data.train)))


def test_an_objective_of_ones_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of docs/training.md."""
    text = (REPO_ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (tmp_path / "my_objective.py").write_text(text.partition("# my_objective.py\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {"eval_strategy": "steps", "eval_steps": 6}
    folder = run("own", "objective=my_objective:Focal", "objective.gamma=1.5", **settings)
    results = record(folder)["results"]
    assert record(folder)["config"]["objective"] == {"name": "my_objective:Focal", "gamma": 1.5}
    assert results["eval_mini_likelihood_loss"] < 0 < results["eval_mini_loss"]
    with pytest.raises(ConfigError, match="objective.gamma: got 'much'"):
        run("wrong", "objective=my_objective:Focal", "objective.gamma=much")
    sys.modules.pop("my_objective")


@pytest.mark.launch
@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu", "fsdp"])
def test_two_processes_equal_one(world: Path, run: Run, tmp_path: Path, config: str) -> None:
    """DDP and FSDP; with the cache, of which each process has its own rows, and more rows than a step needs."""
    options = ("objective=kl", "objective.ce_weight=0.2", "objective.cache_mb=16", "lora.r=2")
    settings = {"gradient_accumulation_steps": 2, "max_steps": 7, "eval_strategy": "steps", "eval_steps": 7}
    one = run("one", *options, per_device_train_batch_size=4, **settings)
    words = overrides(world, tmp_path / "two", *options, per_device_train_batch_size=2, **settings)
    program = "train.py" if config == "cpu" else "tests/support/fsdp_on_cpu.py"
    done = launch(world, 2, *words, config=config, program=program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-3)
    results = [record(folder)["results"] for folder in (one, tmp_path / "two")]
    for name in ("eval_mini_loss", "eval_mini_ce_loss", "eval_mini_kl_loss"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-3)
