"""Several engines behind a stage: the same responses, whatever becomes of a worker or of the run."""

from __future__ import annotations

import functools
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from src.common.errors import UserError
from src.common.paths import REPO_ROOT, responses_dir
from src.corpus.targets import responses
from src.corpus.targets.engine_pool import Placement
from src.inference.types import Request, Sampling
from src.inference.worker_pool_engine import WorkerPoolEngine, serve_requests
from src.inference.workers import WORKER_TIMEOUT, Ready
from src.prompts.reasoning import THINKING
from tests.corpus.targets.fakes import FakeEngine, save_prompts
from tests.corpus.targets.workers import SETTINGS, WorkerEngine, seeded, service
from tests.prompts.fakes import CharTokenizer

generate_responses = functools.partial(responses.generate_responses, reasoning=THINKING)

ROWS = 20
PLAIN, REPHRASED = "mini_tiny_64", "mini_rephrased_16_tiny_64"


@pytest.fixture(autouse=True)
def prompts(data_root: Path) -> None:
    save_prompts("mini", ROWS)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def rows_of(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_from_disk(str(responses_dir("tiny", name)))["train"].to_list()
    return rows


def undisturbed() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both sets as one engine in this process makes them."""
    generate_responses(["mini"], SETTINGS, lambda llm: FakeEngine(seeded), overwrite=True)
    return rows_of(PLAIN), rows_of(REPHRASED)


def asked(notes: Path) -> list[tuple[str, str]]:
    """Row and length limit of every request that was answered."""
    return [tuple(path.name.split("-")[:2]) for path in notes.iterdir() if path.name[0].isdigit()]  # type: ignore[misc]


def check(notes: Path, processes: int) -> None:
    """All rows of both stages by so many processes, the sets as they should be."""
    assert {key for key, _ in asked(notes)} == {str(row) for row in range(ROWS)}
    assert len({path.name.split("-")[2] for path in notes.iterdir() if path.name[0].isdigit()}) == processes
    found = rows_of(PLAIN), rows_of(REPHRASED)
    assert found == undisturbed()


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [None, 3])
def test_two_processes_make_the_same_sets(notes: Path, kill_after: int | None) -> None:
    from src.inference.local_workers import LocalWorkers

    workers: list[LocalWorkers] = []

    def start(llm: str) -> WorkerPoolEngine:
        workers.append(LocalWorkers(service(notes, kill_after=kill_after), 2))
        return WorkerPoolEngine(workers[-1], CharTokenizer())

    generate_responses(["mini"], SETTINGS, start)
    assert len(workers) == 1, "both stages by the same workers"
    assert len(asked(notes)) == 2 * ROWS and (notes / "victim").exists() == (kill_after is not None)
    check(notes, 2)


@pytest.mark.slow
@pytest.mark.parametrize("die_after", [27])
def test_the_same_command_goes_on_after_a_kill(notes: Path, die_after: int) -> None:
    from src.inference.local_workers import LocalWorkers

    command = [sys.executable, "-m", "tests.corpus.targets.workers", str(notes), str(die_after)]
    done = subprocess.run(command, cwd=REPO_ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    until = time.monotonic() + 30
    pids = [path.name.removeprefix("here-") for path in notes.glob("here-*")]
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    second = notes / "second"
    second.mkdir()
    generate_responses(
        ["mini"], SETTINGS, lambda llm: WorkerPoolEngine(LocalWorkers(service(second), 2), CharTokenizer())
    )
    assert len(asked(second)) == 2 * ROWS - die_after, "what was kept is not asked for again"
    found = rows_of(PLAIN), rows_of(REPHRASED)
    assert found == undisturbed()


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.usefixtures("alone_with_ray")
def test_two_workers_of_ray(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from src.inference.ray_workers import RayWorkers

    monkeypatch.chdir(REPO_ROOT)
    generate_responses(
        ["mini"], SETTINGS, lambda llm: WorkerPoolEngine(RayWorkers(service(notes), 2), CharTokenizer())
    )
    assert len(asked(notes)) == 2 * ROWS
    check(notes, 2)


def test_a_worker_changes_its_sampling_between_stages(notes: Path) -> None:
    work: queue.Queue[tuple[Request, Sampling] | None] = queue.Queue()
    short, long = Sampling(max_tokens=4), Sampling(max_tokens=9)
    for number, sampling in enumerate((short, short, long, short)):
        work.put((Request(str(number), ([65, 66],), seed=number), sampling))
    work.put(None)
    sent: list[Any] = []
    engine = WorkerEngine(notes)
    engine.reply = lambda prompt, request: prompt
    serve_requests(lambda: engine, work, sent.append)
    assert isinstance(sent[0], Ready) and sorted(result.key for result in sent[1:]) == ["0", "1", "2", "3"]
    assert {request.key: sampling.max_tokens for _, request, sampling in engine.seen} == {
        "0": 4,
        "1": 4,
        "2": 9,
        "3": 4,
    }
    assert engine.closed


def test_placements(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("src.inference.local_workers.LocalWorkers", lambda *given: made.append(given))
    monkeypatch.setattr("src.inference.ray_workers.RayWorkers", lambda *given: made.append(given))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert Placement().open_workers() is None and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    for placement in (Placement("0,1"), Placement(workers=3), Placement(engine="ray", workers=2, ray_address="a:1")):
        opened = placement.open_workers()
        assert opened is not None
        opened("service")
    assert made == [("service", *given, WORKER_TIMEOUT) for given in ((2, ["0", "1"]), (3, []), (2, "a:1"))]
    assert Placement("5").open_workers() is None and os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(UserError, match="engine is 'rai'; known: vllm, ray"):
        Placement(engine="rai")
    with pytest.raises(UserError, match="workers is 0"):
        Placement(workers=0)
