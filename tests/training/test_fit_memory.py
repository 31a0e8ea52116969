"""Size of micro-batches and number of recomputed layers, chosen by the memory of the machine."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from src.common.errors import ConfigError, UserError
from src.training import batch_search, device_memory
from src.training.activation_memory import bound_activations, kept_by_layers, layers_to_recompute
from src.training.batch_search import FILE, Found, search
from src.training.device_memory import Trial, free_memory, held_memory, try_step
from tests.training.conftest import Run
from tests.training.test_loss import gradients, trainer  # noqa: F401
from tests.training.test_run import SAVED, losses

MIB = 2**20


class Machine:
    """A device of ``room`` bytes on which a step of n positions needs ``fixed + per * n``; it dies of more."""

    def __init__(self, room: float, fixed: float, per: float, dies: bool = False, seconds: float = 0.0) -> None:
        self.room, self.fixed, self.per, self.dies, self.seconds = room, fixed, per, dies, seconds
        self.tried: list[int] = []

    def __call__(self, size: int) -> Trial | None:
        self.tried.append(size)
        peak = self.fixed + self.per * size
        if peak > self.room:
            assert not self.dies, f"killed at {size}"
            return None
        return Trial(int(peak), self.seconds * size)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("fixed", [1.0, 40 * MIB, 4000 * MIB])
@pytest.mark.parametrize(("least", "room"), [(100, 6000 * MIB), (750, 5000 * MIB), (7, 4100 * MIB)])
def test_the_largest_that_fits_is_found_and_none_that_kills(
    dies: bool, fixed: float, least: int, room: float
) -> None:
    machine = Machine(room, fixed, 0.4 * MIB, dies)
    base = (least // 3, int(fixed + machine.per * (least // 3)))
    found = search(machine, least, 10**6, base, int(room), 60)
    largest = (room - fixed) / machine.per
    assert found is not None and 0.85 * largest <= found.positions <= largest and found.reason == "memory"
    assert found.trials == len(machine.tried) < 40 and found.peak <= room


def test_bounds_of_a_search() -> None:
    assert search(Machine(100, 0, 1), 10, 80, (0, 0), 100, 60) == Found(80, 80, 4, "the largest size to try")
    assert search(Machine(100, 0, 1), 10, 10, (0, 0), 100, 60) == Found(10, 10, 1, "the largest size to try")
    slow = search(
        Machine(1e9, 0, 1, seconds=1), 10, 10**6, (0, 0), 10**9, 60
    )  # a trial of 40 positions is foreseen to be 50 s
    assert slow is not None and slow.reason == "time is up" and slow.positions == 40
    assert search(Machine(5, 0, 1), 10, 80, (0, 0), 100, 60) is None
    assert search(Machine(1000, 0, 1), 10, 80, (0, 0), 9, 60) is None


def test_processes_agree() -> None:
    """Two machines with different memory, and a step that one of them cannot do at all, take one number."""
    meet, values = threading.Barrier(2, timeout=30), [0, 0]

    def run(place: int, machine: Machine) -> Found | None:
        def agreed(value: int) -> int:
            values[place] = value
            meet.wait()
            least = min(values)
            meet.wait()
            return least

        return search(machine, 100, 10**5, (0, 0), int(machine.room), 60, agreed)

    with ThreadPoolExecutor(2) as pool:
        for rooms, most in (((9000, 3000), 3000), ((9000, 50), None)):
            found = list(pool.map(run, (0, 1), (Machine(room, 0, 1) for room in rooms)))
            sizes = {one and one.positions for one in found}
            assert len(sizes) == 1
            assert sizes == {None} if most is None else 0.85 * most <= sizes.pop() <= most


def test_a_trial_leaves_no_trace(trainer) -> None:  # noqa: ANN001, F811
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    drawn = torch.get_rng_state()
    found = try_step(trainer, [0, 3, 3])
    assert found is not None and found.peak >= 10 * MIB and found.seconds > 0
    assert torch.equal(torch.get_rng_state(), drawn) and trainer.positions == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(value.grad is None for value in trainer.model.parameters())


def test_free_memory_minds_every_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    (tmp_path / "memory.max").write_text(f"{900 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{700 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {100 * MIB}\n")
    assert device_memory._group_free(tmp_path) == 300 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert device_memory._group_free(tmp_path) == device_memory._group_free(tmp_path / "none") == 2**62
    monkeypatch.setattr(device_memory, "_group_free", lambda: 300 * MIB)
    assert free_memory(device) <= held_memory(device) + 300 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_memory(device) <= held_memory(device) + 100 * MIB


def test_a_run_finds_its_size_and_a_resumed_one_keeps_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("alarm").propagate = True
    settings = {"max_steps": 6, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant", **SAVED}
    fixed = run("fixed", **settings)
    extra = ("max_batch_positions=auto", "batch_search.positions=300", "packing=true")
    with caplog.at_level(logging.INFO):
        found = run("found", *extra, **{**settings, "max_steps": 3})
    record = json.loads((found / FILE).read_text())
    lines = [line for line in caplog.messages if line.startswith("max_batch_positions=auto: ")]
    assert len(lines) == 1 and f" {record['max_batch_positions']} positions" in lines[0]
    assert 100 < record["max_batch_positions"] <= 300
    monkeypatch.setattr(batch_search, "search", lambda *_: pytest.fail("searched again"))
    again = run("found", *extra, "resume_from_checkpoint=true", **settings)
    assert losses(again) == pytest.approx(losses(fixed), rel=1e-3)


def test_a_clip_that_does_not_fit_is_one_line(run: Run) -> None:
    with pytest.raises(UserError, match="one clip of .* positions does not fit in the 0.10 GiB") as caught:
        run("small", "max_batch_positions=auto", "batch_search.memory_gib=0.1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("batch_search.seconds=5",), "no effect unless max_batch_positions is auto"),
        (("max_batch_positions=auto", "batch_search.seconds=0"), "seconds is 0"),
        (("max_batch_positions=auto", "activation_memory_gib=1"), "needs the size of micro-batches"),
        (("activation_memory_gib=1", "training_args.gradient_checkpointing=true"), "set only one"),
        (("activation_memory_gib=-1",), "activation_memory_gib is -1"),
        (("overlap_encoders=true", "encoder_cache_mb=5"), "set only one of them"),
    ],
)
def test_wrong_options(run: Run, extra: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("wrong", *extra)


def test_layers_are_chosen_by_the_bound() -> None:
    kept, inputs = [10.0] * 6, [1.0] * 6
    assert layers_to_recompute(kept, inputs, 60) == []
    assert layers_to_recompute(kept, inputs, 59) == [1, 4]  # 42 are left, and 10 for the one that is computed again
    assert layers_to_recompute(kept, inputs, 44) == [1, 3, 5]
    assert layers_to_recompute(kept, inputs, 16) == layers_to_recompute(kept, inputs, 2) == list(range(6))


def test_what_layers_keep(trainer) -> None:  # noqa: ANN001, F811
    """Of a plain layer: what its gradient needs. A frozen linear layer keeps nothing, a trained one its input."""
    layers = [torch.nn.Linear(8, 8).requires_grad_(trained) for trained in (False, True)]
    layers.append(torch.nn.Sequential(torch.nn.Linear(8, 8).requires_grad_(False), torch.nn.SiLU()))
    states = torch.randn(2, 5, 8, requires_grad=True)
    with kept_by_layers(layers) as measured:
        for layer in layers:
            layer(states * 1)
        with torch.no_grad():
            layers[1](states)
    assert measured.kept == [0, states.nbytes, states.nbytes] and measured.positions == 10
    assert measured.inputs == [states.nbytes] * 3


def test_recomputed_layers_change_nothing_and_keep_less(trainer, caplog: pytest.LogCaptureFixture) -> None:  # noqa: ANN001, F811
    logging.getLogger("alarm").propagate = True
    step = [trainer.data_collator([[trainer.data.train[index] for index in range(4)]])[0]]
    expected = gradients(trainer, step)
    with kept_by_layers(trainer.model.layers) as before:
        gradients(trainer, step)
    assert len(before.kept) == 2 and min(before.kept) > min(before.inputs) > 0
    assert bound_activations(trainer, "auto") == []
    whole = sum(before.kept) * trainer.plan.clips * device_memory.row_lengths(trainer)[1] / before.positions / 2**30
    with caplog.at_level(logging.INFO):
        assert bound_activations(trainer, 0.95 * whole) == [0, 1] or bound_activations(trainer, 0.95 * whole) == [1]
    assert "of 2 layers are recomputed" in caplog.text
    found = gradients(trainer, step)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("model", ["mini_w2vbert", "mini_alarm_p"])
def test_encoding_ahead_changes_nothing(run: Run, model: str) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 3, "model": model}
    plain = run("plain", **settings)
    ahead = run("ahead", "overlap_encoders=true", **settings)
    assert losses(ahead) == losses(plain)
