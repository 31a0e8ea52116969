"""Whole small runs: what they leave behind, what they train, how they go on, how they stop."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.common.config import compose
from src.common.errors import ConfigError, UserError
from src.common.paths import REPO_ROOT
from src.generation.ask import ask
from src.model.checkpoints import open_checkpoint
from src.prompts import choose_prompts
from src.training.callbacks import read_metrics
from tests.support.tiny_llm import save_tiny_llm
from tests.training.conftest import Run

CLIP = REPO_ROOT / "assets" / "mini" / "sounds" / "flac" / "bd_klub_0.flac"


SAVED = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 6}
"""Six steps with checkpoints at 3 and 6, evaluated at the end."""


def losses(folder: Path) -> list[float]:
    """Training losses by step."""
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def record(folder: Path) -> dict[str, Any]:
    """The run record."""
    return json.loads((folder / "run.json").read_text())


def test_a_run_leaves_a_checkpoint_metrics_and_a_record(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("generation_system: hark.\n", encoding="utf-8")
    folder = run("first", f"prompts={own}", eval_strategy="steps", eval_steps=3)
    state = load_file(folder / "model.safetensors")
    assert state and not any("encoder." in name and "audio_encoder" in name for name in state)
    lines = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"learning_rate", "grad_norm", "clips_per_second", "rows_replaced"} <= set(line) for line in steps)
    assert [line["step"] for line in lines if "eval_mini_loss" in line] == [3, 6]
    assert steps[-1]["loss"] < steps[0]["loss"]
    written = record(folder)
    assert written["llm_digest"]["before"] == written["llm_digest"]["after"]
    assert written["seed"] == 42 and written["processes"] == 1 and written["counts"]["clips"] == 24
    assert written["results"]["eval_mini_loss"] == pytest.approx(written["results"]["eval_loss"])
    assert not list(folder.glob("**/*.bin"))
    own.unlink()  # the texts travel with the checkpoint
    checkpoint = open_checkpoint(folder)
    prompts = choose_prompts(None, [(checkpoint.name, checkpoint.extra)])
    assert prompts.generation_system == "hark." and prompts.record() == written["prompts"]
    assert written["prompts"]["name"] == "own" and checkpoint.extra["step"] == 6


def test_kill_and_resume_gives_the_same_curve(run: Run) -> None:
    whole = run("whole", model="mini_alarm_ca", max_steps=8, per_device_train_batch_size=6)
    stopped = run(
        "half", model="mini_alarm_ca", max_steps=8, per_device_train_batch_size=6, save_strategy="steps", save_steps=3
    )
    assert losses(stopped) == losses(whole)
    for name in ("model.safetensors", "run.json", "alarm_config.json"):  # as if killed after step 7
        (stopped / name).unlink()
    shutil.rmtree(stopped / "checkpoint-8")
    (stopped / "checkpoint-6" / "trainer_state.json").write_text("{ cut")
    with pytest.raises(UserError, match="another seed"):  # rows would come twice in an epoch, and others not at all
        run("half", "resume_from_checkpoint=true", "seed=7", model="mini_alarm_ca", per_device_train_batch_size=6)
    resumed = run(
        "half",
        "resume_from_checkpoint=true",
        model="mini_alarm_ca",
        max_steps=8,
        per_device_train_batch_size=6,
        save_strategy="steps",
        save_steps=3,
    )
    assert record(resumed)["resumed_from"].endswith("checkpoint-3")
    assert losses(resumed) == losses(whole)  # bit for bit, dropout included; 8 steps are more than one epoch
    left, right = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_accumulation_weighs_tokens_as_one_big_batch_does(run: Run) -> None:
    big = run("big", "length_grouping=none", per_device_train_batch_size=8)
    small = run("small", "length_grouping=none", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert losses(small) == pytest.approx(losses(big), rel=2e-5)
    left, right = load_file(big / "model.safetensors"), load_file(small / "model.safetensors")
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-4)


def test_micro_batches_by_size_change_nothing(run: Run) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    fixed = run("fixed", **settings)
    sized = run("sized", "max_batch_positions=160", "+training_args.gradient_checkpointing=true", **settings)
    assert losses(sized) == pytest.approx(losses(fixed), rel=2e-5)
    assert record(sized)["counts"]["clips"] == record(fixed)["counts"]["clips"] == 48


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_change_nothing(run: Run, shared_run: Run) -> None:
    """The loss and the gradients: one step, as most of the time is that of the compiler."""
    plain = shared_run(max_steps=1, model="mini_whisper", lr_scheduler_type="constant")
    compiled = run("compiled", "compile_layers=true", max_steps=1, model="mini_whisper", lr_scheduler_type="constant")
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    left, right = (read_metrics(folder / "metrics.jsonl")[0]["grad_norm"] for folder in (plain, compiled))
    assert left == pytest.approx(right, rel=1e-3)


def test_cached_encoder_states_change_nothing(run: Run, tmp_path: Path) -> None:
    options = ("encoder_cache_mb=100", f"encoder_cache_dir={tmp_path / 'cache'}")
    settings = {"max_steps": 12, "model": "mini_alarm_p"}
    plain = run("plain", **settings)
    first = run("cached", *options, **settings)
    second = run("again", *options, **settings)
    assert losses(first) == pytest.approx(losses(plain), rel=1e-4)
    assert losses(second) == pytest.approx(losses(plain), rel=1e-4)
    parts = sorted((tmp_path / "cache").glob("*/*.safetensors"))
    assert len(parts) == 4 and sum(len(load_file(part)) for part in parts) == 4 * 32


def test_adapters_of_earlier_runs_are_loaded_and_stay(run: Run, shared_run: Run, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("whisper", "w2vbert", "sslam", "muq")}
    for name, folder in runs.items():
        shutil.copytree(shared_run(model=f"mini_{name}", max_steps=1), folder)
    names = "{" + ",".join(f"{name}:{name}" for name in runs) + "}"
    fused = run(
        "ca",
        f"pretrained_adapters_dir={tmp_path}",
        f"pretrained_adapters_names={names}",
        "freeze_adapters=true",
        model="mini_alarm_ca",
    )
    state = load_file(fused / "model.safetensors")
    for name, folder in runs.items():
        prefix = f"audio_adapter.adapters.{name}."
        own = {key: value for key, value in load_file(folder / "model.safetensors").items() if key.startswith(prefix)}
        assert own and all(torch.equal(value, state[key]) for key, value in own.items())


def test_another_family_of_language_models(run: Run, tmp_path: Path) -> None:
    """A Llama of another width, by name alone: the width is read from its config, and the checkpoint answers."""
    llm = save_tiny_llm(tmp_path / "llm", width=48, family="llama")
    trained = run("llama", f"model.llm={llm}", "seed=1")
    assert losses(trained)[-1] < losses(trained)[0]
    config = open_checkpoint(trained).config
    assert config.llm_embedding_dim == 48 and config.llm == str(llm)
    assert load_file(trained / "model.safetensors")["audio_start_emb"].shape == (1, 48)
    limits = ["model.max_tokens=6", "model.max_thinking_tokens=-1", "greedy=true"]
    pieces = ask(str(CLIP), "what is it?", compose("ask", [f"checkpoint_name={trained}", *limits]))
    assert {part for part, _ in pieces} <= {"thoughts", "answer"}


def test_evaluation_only(run: Run, shared_run: Run) -> None:
    trained = shared_run(**SAVED)
    expected = record(trained)["results"]["eval_mini_loss"]
    checkpoint = trained / "checkpoint-6"
    folder = run("evaluated", "eval_mode=true", f"resume_from_checkpoint={checkpoint}", per_device_eval_batch_size=3)
    assert json.loads((folder / "eval.json").read_text())["eval_mini_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.fixture()
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """``spoil("loss" or "gradient", call)`` makes one call of the model, counted from 1, go wrong."""
    from src.model.alarm import AlarmModel

    forward, calls = AlarmModel.forward, itertools.count(1)

    def start(what: str, wrong: int) -> None:
        def spoiled(self: AlarmModel, batch: dict[str, Any]) -> dict[str, Any]:
            outputs = forward(self, batch)
            if next(calls) == wrong:
                total = outputs["loss_sum"]
                root = torch.sqrt(total - total.detach())  # zero, with an infinite slope
                outputs["loss_sum"] = total * float("nan") if what == "loss" else total + root
            return outputs

        monkeypatch.setattr(AlarmModel, "forward", spoiled)

    return start


def test_a_loss_that_is_not_finite_stops_with_its_rows(run: Run, tmp_path: Path, spoil: Callable[..., None]) -> None:
    spoil("loss", 4)
    with pytest.raises(UserError, match=r"the loss is nan at step 2; rows of the batch: mini/\d+, mini/\d+ "):
        run("nan", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    written = json.loads((tmp_path / "nan" / "not_finite_2_0.json").read_text())
    assert len(written["rows"]) == 2 and not written["skipped"]  # those of the bad micro-batch alone


def test_a_gradient_that_is_not_finite_stops(run: Run, spoil: Callable[..., None]) -> None:
    spoil("gradient", 2)
    with pytest.raises(UserError, match=r"the gradient's norm is (nan|inf) at step 2; rows of the batch: mini/"):
        run("nan")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_can_be_left_out(run: Run, spoil: Callable[..., None], what: str) -> None:
    spoil(what, 3)
    folder = run("skipped", "not_finite=skip")
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["steps_skipped"] for line in lines if "loss" in line] == [0, 0, 1, 1, 1, 1]
    assert record(folder)["counts"]["steps_skipped"] == 1 and list(folder.glob("not_finite_3_0.json"))
    state = load_file(folder / "model.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in state.values())


def test_answers_at_every_save(run: Run, shared_run: Run) -> None:
    folder = run("samples", "sample_generations=3", "sample_tokens=4", save_strategy="steps", save_steps=3)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3] * 3 + [6] * 3
    assert {line["set"] for line in lines} == {"mini"} and lines[0]["key"] == "mini/0"
    assert lines[0]["prompt"].startswith(lines[3]["prompt"][:10]) and "</think>" in lines[0]["target"]
    assert losses(folder) == losses(shared_run())  # answering changes nothing


def test_bf16_runs(run: Run, shared_run: Run) -> None:
    folder = run("half_precision", bf16="true", max_steps=3)
    assert all(value == value for value in losses(folder))
    assert load_file(folder / "model.safetensors")["audio_start_emb"].dtype == torch.float32
    whole = shared_run(max_steps=3)
    assert losses(folder) == pytest.approx(losses(whole), rel=0.03)
    assert losses(run("llm_alone", "llm_dtype=bfloat16", max_steps=3)) == pytest.approx(losses(whole), rel=0.03)
    exact = run("llm_in_float32", "llm_dtype=float32", bf16="true", max_steps=3)
    assert losses(exact) == losses(folder)  # bit for bit: linear layers in bfloat16 change nothing under autocast
    assert record(exact)["llm_digest"] != record(folder)["llm_digest"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("frozen_adapters_names=[w2vbert]",), "frozen_adapters_names has no effect"),
        (("pretrained_adapters_dir=x",), "pretrained_adapters_dir: no folder x"),
        (("freeze_adapters=true", "frozen_adapters_names=[whisper]"), "unknown whisper"),
        (("model.llm_embedding_dim=64",), "llm_embedding_dim is 64"),
        (("+training_args.lerning_rate=1",), "did you mean 'learning_rate'"),
        (("training_args.lr_scheduler_type=cosign",), "training_args: "),
        (("encoder_cache_dir=x",), "encoder_cache_dir has no effect"),
        (("llm_dtype=autocast",), "bf16 is off"),
        (("max_batch_positions=0",), "max_batch_positions is 0"),
        (("training_args.gradient_accumulation_steps=0",), "gradient_accumulation_steps is 0"),
        (("+training_args.auto_find_batch_size=true",), "set max_batch_positions instead"),
    ],
)
def test_wrong_options_end_in_one_message(run: Run, extra: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run("wrong", *extra)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_not_trained_further(run: Run, shared_run: Run, tmp_path: Path) -> None:
    whole = shutil.copytree(shared_run(**SAVED), tmp_path / "run")
    before, results = load_file(whole / "model.safetensors"), record(whole)["results"]
    (whole / "run.json").unlink()  # as if killed between the last checkpoint and the record
    again = run("run", "resume_from_checkpoint=true", **SAVED)
    assert sorted(path.name for path in again.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    after = load_file(again / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert record(again)["results"]["eval_mini_loss"] == pytest.approx(results["eval_mini_loss"], rel=1e-5)
    assert len(losses(again)) == 6


def test_resume_from_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a whole checkpoint, it lacks model.safetensors"):
        run("none", f"resume_from_checkpoint={tmp_path / 'absent'}")
    folder = run("fresh", "resume_from_checkpoint=true", max_steps=1)  # nothing there yet: from the beginning
    assert record(folder)["resumed_from"] is None


def test_configuration_check_loads_nothing(run: Run, tmp_path: Path) -> None:
    run("checked", "check_config=true")
    assert not (tmp_path / "checked").exists()


def test_configuration_check_lists_all_faults_in_one_message(run: Run, tmp_path: Path) -> None:
    """It said "in order" for a language model that does not exist."""
    with pytest.raises(ConfigError, match="LLM '/nowhere': no usable config.json") as caught:
        run("checked", "check_config=true", "model.llm=/nowhere")
    assert "faults" not in str(caught.value)
    real = ("check_config=true", "random_weights=false")
    no_template = save_tiny_llm(tmp_path / "bare", width=192)
    (no_template / "chat_template.jinja").unlink()
    wrong = (
        *(*real, f"model.llm={no_template}", "dataset.train.rows=[[absent_set,WithContext,1.0,false]]"),
        *("model.config.encoders.whisper.architecture.ffn_dim=32", "freeze_adapters=true"),
        "frozen_adapters_names=[muq]",
    )
    with pytest.raises(ConfigError) as caught:
        run("checked", *wrong, model="mini_whisper", lr_scheduler_type="cosign")
    message = str(caught.value)
    parts = ("cosign", "absent_set", "no chat template", "unknown muq", "encoder whisper", "5 faults: (1) ", "(5) ")
    assert [part for part in parts if part not in message] == [] and "\n" not in message
    with pytest.raises(ConfigError, match="LLM nobody/model cannot be fetched from the Hugging Face Hub"):
        run("checked", *real, "model.llm=nobody/model")
    other = save_tiny_llm(tmp_path / "other", width=48)
    run("checked", *real, f"model.llm={other}")
    with pytest.raises(ConfigError, match="llm_embedding_dim is 192, but .*other has 48"):
        run("checked", "check_config=true", f"model.llm={other}", "model.llm_embedding_dim=192")
    assert not (tmp_path / "checked" / "run.json").exists()
