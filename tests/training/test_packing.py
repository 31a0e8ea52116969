"""``packing=true``: the losses and steps of padded micro-batches, in one process and two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.common.errors import ConfigError
from src.training.callbacks import read_metrics
from tests.training.conftest import Run, overrides
from tests.training.test_launch import launch
from tests.training.test_run import losses, record

PLAIN = {
    "optim": "sgd",  # a step is the gradient itself
    "learning_rate": 1,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 1e9,
    "max_steps": 1,
}


def assert_same_step(left: Path, right: Path, start: Path) -> None:
    """Loss, and gradients, which are what one step of ``PLAIN`` changes."""
    assert losses(left) == pytest.approx(losses(right), rel=1e-5)
    norms = [read_metrics(folder / "metrics.jsonl")[0]["grad_norm"] for folder in (left, right)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    states = [load_file(folder / "model.safetensors") for folder in (left, right, start)]
    moved = 0.0
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-5 * norms[0], msg=name)
        moved += float((value - states[2][name]).norm()) ** 2
    assert moved**0.5 == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_a_step_equals_the_padded_one(run: Run, objective: str) -> None:
    settings = {**PLAIN, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    extra = (f"objective={objective}", "length_grouping=none")
    folders = [run(str(packed), *extra, f"packing={packed}", **settings) for packed in (False, True)]
    start = run("start", *extra, **{**settings, "learning_rate": 0})
    assert_same_step(*folders, start)
    padded, packed = (record(folder)["counts"]["positions"] for folder in folders)
    assert packed < 0.97 * padded


def test_micro_batches_are_cut_by_what_is_computed(run: Run) -> None:
    """At most so many positions, without padding: fewer micro-batches, the same loss."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 8}
    whole = run("whole", **settings)
    sized = run("sized", "packing=true", "max_batch_positions=300", **settings)
    assert losses(sized) == pytest.approx(losses(whole), rel=2e-5)


def test_an_objective_that_does_not_say_so_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rowwise.py").write_text(
        "from src.model.objective import Objective\nfrom src.model.loss import ObjectiveLoss\n"
        "class Rows(Objective):\n    def __call__(self, model, spliced, batch):\n"
        "        return ObjectiveLoss(model.target_states(spliced).cross_entropy())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="takes_packed = True"):
        run("own", "packing=true", "objective=rowwise:Rows")


@pytest.mark.launch
@pytest.mark.slow
def test_two_processes_with_accumulation_equal_a_padded_one(world: Path, run: Run, tmp_path: Path) -> None:
    settings = {**PLAIN, "gradient_accumulation_steps": 2}
    padded = run("padded", per_device_train_batch_size=4, **settings)
    options = overrides(world, tmp_path / "two", "packing=true", per_device_train_batch_size=2, **settings)
    done = launch(world, 2, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    start = run("start", **{**settings, "learning_rate": 0, "per_device_train_batch_size": 4})
    assert_same_step(tmp_path / "two", padded, start)
    counts = record(tmp_path / "two")["counts"]
    assert counts["clips"] == 8 and counts["positions"] < record(padded)["counts"]["positions"]
