"""dry_run and debug_ind: what they tell, and that nothing is saved."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import data_root as current_root
from src.generation.config import read_run_config
from src.generation.dry_run import estimate
from src.generation.job import prepare
from src.generation.run import generate
from src.generation.task_types import FREE
from src.inference.scheduler import StepOutput
from src.model.checkpoints import LoadedEmbedder
from tests.generation.conftest import free_rows, save_set
from tests.generation.fakes import ScriptedBackend
from tests.generation.test_run import World
from tests.support.tiny_corpus import make_rows


@pytest.fixture
def world(loaded: LoadedEmbedder, llm: Path, data_root: Path) -> World:
    made = World(loaded, llm)
    made.script = lambda prompt: "x" * 20 + "</think>yes"
    return made


def config(world: World, *overrides: str) -> dict:
    given = ["dataset.name=sounds", "prompts=mini", f"checkpoint_name={world.loaded.name}", *overrides]
    return compose("generate", given)


def logged(world: World, caplog: pytest.LogCaptureFixture, *overrides: str) -> str:
    logging.getLogger("alarm").propagate = True
    try:
        with caplog.at_level(logging.INFO, logger="alarm.generation.dry_run"):
            assert generate(config(world, *overrides), FREE, world.start) == 0
    finally:
        logging.getLogger("alarm").propagate = False
    assert not (current_root() / "generated").exists()
    return caplog.text


def test_dry_run_counts_all_and_answers_a_few(world: World, caplog: pytest.LogCaptureFixture) -> None:
    rows = free_rows(30)
    rows[3]["audio"] = {"bytes": b"broken", "path": "broken.wav"}
    save_set("sounds", {"train": rows})
    told = logged(world, caplog, "dry_run=true", "dry_run_rows=9", "model.max_num_seq=4")
    assert "rows: 30" in told and "from 12 rows" in told, "three waves of four"
    assert len(world.prompts) <= 13, "and one to warm up"
    found = estimate(prepare(read_run_config(config(world, "dry_run_rows=30")), FREE), world.start)
    assert (found.rows, found.sampled, found.bad) == (30, 30, 1)
    assert found.tokens == 29 * len("x" * 20 + "</think>yes.")
    seconds = sum(row["duration"] for row in make_rows(30)) - make_rows(30)[3]["duration"]
    assert found.hours == pytest.approx(seconds / 3600, rel=1e-3) and found.seconds > 0


def test_audio_hours_come_from_the_column_where_there_is_one(world: World) -> None:
    rows = [{**row, "duration": 1800.0} for row in free_rows(4)]
    save_set("sounds", {"train": rows})
    job = prepare(read_run_config(config(world, "dry_run_rows=1", "engine.workers=2")), FREE)
    found = estimate(job, world.start)
    assert found.hours == 2.0 and found.workers == 2
    assert any("audio: 2.00 h" in line for line in found.lines())


def test_the_time_does_not_depend_on_the_size_of_the_sample(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes the same time however many rows it decodes, as on a GPU; one row seemed to take all of it."""
    save_set("sounds", {"train": free_rows(40)})
    steps = 100
    world.script = lambda prompt: "x" * (steps - 9) + "</think>"
    step = ScriptedBackend.step

    def slow(backend: ScriptedBackend) -> list[StepOutput]:
        time.sleep(0.005)
        return step(backend)

    monkeypatch.setattr(ScriptedBackend, "step", slow)
    found = []
    for count in (1, 12):
        overrides = (f"dry_run_rows={count}", "model.max_num_seq=4")
        found.append(estimate(prepare(read_run_config(config(world, *overrides)), FREE), world.start))
    assert [each.sampled for each in found] == [4, 12]
    expected = 40 / 4 * steps * 0.005
    assert all(each.seconds >= expected for each in found)
    assert 0.33 < found[0].seconds / found[1].seconds < 3


def test_one_row_is_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    save_set("sounds", {"train": free_rows(3)})
    told = logged(world, caplog, "dataset.debug_ind=0")
    assert free_rows(1)[0]["prompt"] in told and "x" * 20 + "</think>yes" in told and len(world.prompts) == 1
    with pytest.raises(UserError, match="debug_ind=7: train has rows 0 to 2"):
        generate(config(world, "dataset.debug_ind=7"), FREE, world.start)
