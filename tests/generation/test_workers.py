"""Several workers: every row once whatever becomes of a worker, on one machine and through Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import REPO_ROOT, data_root
from src.generation.config import RunConfig, read_run_config
from src.generation.input_dataset import RowRef, row_key
from src.generation.run import generate
from src.generation.task_types import FREE
from src.inference.config import choose_workers
from src.inference.local_workers import LocalWorkers, worker_environment
from src.inference.workers import Dispatcher, Message, Ready, WorkerDied
from tests.generation.conftest import free_rows, save_set
from tests.generation.workers import start_mortal, start_never, start_scripted

ROWS = 40


def dispatch(workers: FakeWorkers, rows: list[RowRef]) -> Iterator[dict[str, str]]:
    """Records of the rows."""
    return Dispatcher(workers, row_key, lambda record: record["key"]).run(rows)


class FakeWorkers:
    """Each answers one row a turn; a worker in ``deaths`` is lost after so many of its answers."""

    def __init__(self, count: int, capacity: int, deaths: dict[int, int]) -> None:
        self.count, self.deaths = count, deaths
        self.rows: dict[int, list[RowRef]] = {number: [] for number in range(count)}
        self.answered: Counter[int] = Counter()
        self.most_held = 0
        self.news: list[tuple[int, Message]] = [(number, Ready(capacity)) for number in range(count)]

    def send(self, worker: int, rows: Sequence[RowRef]) -> None:
        self.rows[worker] += rows
        self.most_held = max(self.most_held, len(self.rows[worker]))

    def wait(self) -> Iterator[tuple[int, Message]]:
        yield from self.news
        self.news = []
        for worker, rows in self.rows.items():
            if self.answered[worker] >= self.deaths.get(worker, ROWS):
                self.rows[worker] = []
                if self.deaths.pop(worker, None) is not None:
                    self.answered[worker] = ROWS
                    yield worker, WorkerDied("killed")
            elif rows:
                self.answered[worker] += 1
                yield worker, {"key": row_key(rows.pop(0))}

    def close(self) -> None:
        pass


ALL = [("train", number) for number in range(ROWS)]


@pytest.mark.parametrize("deaths", [{}, {0: 0}, {1: 3, 2: 5}])
def test_every_row_is_answered_once(deaths: dict[int, int]) -> None:
    workers = FakeWorkers(3, 8, dict(deaths))
    done = [record["key"] for record in dispatch(workers, ALL)]
    assert sorted(done) == sorted(map(row_key, ALL))
    assert workers.most_held <= 8


def test_the_last_rows_are_shared() -> None:
    workers = FakeWorkers(2, 1000, {})
    list(dispatch(workers, ALL))
    assert abs(workers.answered[0] - workers.answered[1]) <= ROWS // 4


def test_when_all_are_lost_the_run_says_so() -> None:
    done = []
    with pytest.raises(UserError, match="all workers are lost .killed.*start the run again"):
        for record in dispatch(FakeWorkers(2, 8, {0: 2, 1: 1}), ALL):
            done.append(record["key"])
    assert len(done) == 3


def serve_nothing(work: Any, send: Any) -> None:
    """No body."""


def choose(config: RunConfig) -> Any:
    """Arguments with which a run opens workers."""
    return choose_workers(config.engine, config.devices)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ([], 0),
        (["cuda_devices=3"], 0),
        (["cuda_devices='2,3'"], 2),
        (["cuda_devices=[0,1,5]"], 3),
        (["engine.workers=2"], 2),
    ],
)
def test_one_worker_for_each_device(overrides: list[str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("src.inference.local_workers.LocalWorkers", lambda *args: asked.append(args))
    config = read_run_config(compose("generate", ["dataset.name=x", "checkpoint_name=y", *overrides]))
    chosen = choose(config)
    if count == 0:
        assert chosen is None
    else:
        assert chosen is not None
        chosen(serve_nothing)
        assert asked[0] == (serve_nothing, count, config.devices, 120.0)
    assert worker_environment(2, "GPU-7") == {"CUDA_VISIBLE_DEVICES": "GPU-7"}


def test_a_ray_cluster_is_asked_for_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("src.inference.ray_workers.RayWorkers", lambda *args: asked.append(args))
    given = [
        "dataset.name=x",
        "checkpoint_name=y",
        "engine=ray",
        "engine.workers=3",
        "engine.ray_address=10.1.1.1:6379",
    ]
    chosen = choose(read_run_config(compose("generate", given)))
    assert chosen is not None
    chosen(serve_nothing)
    assert asked == [(serve_nothing, 3, "10.1.1.1:6379", 120.0)]


def test_ray_is_asked_for_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from src.inference.ray_workers import RayWorkers

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"):
        RayWorkers(serve_nothing, 2)


def config(llm: Path, *overrides: str) -> dict[str, Any]:
    given = ["dataset.name=sounds", "prompts=mini", "audio_input=none", f"model.llm={llm}", *overrides]
    return compose("generate", given)


def check(processes: int) -> list[dict[str, Any]]:
    (folder,) = (data_root() / "generated" / "tiny-llm").glob("sounds_*")
    rows = list(load_from_disk(str(folder))["train"])
    asked = {row["dataset_index"]: row["prompt"] for row in free_rows(ROWS)}
    assert [row["dataset_index"] for row in rows] == list(range(ROWS))
    assert all(asked[row["dataset_index"]] in row["answer_text"] for row in rows)
    assert len({row["thoughts"] for row in rows}) == processes
    lines = [json.loads(line) for part in folder.glob(".shards/part-*") for line in part.read_text().splitlines()]
    assert Counter(line["key"] for line in lines) == Counter(f"train/{index}" for index in range(ROWS))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("start", [start_scripted, start_mortal])
def test_two_processes(
    start: Any, llm: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if start is start_mortal:
        monkeypatch.setenv("WORKER_TO_KILL", str(tmp_path / "victim"))
    save_set("sounds", {"train": free_rows(ROWS)})
    raw = config(llm)
    assert generate(raw, FREE, start, lambda service: LocalWorkers(service, 2)) == 0
    check(2 if start is start_scripted else 1)
    assert (tmp_path / "victim").exists() == (start is start_mortal)


@pytest.mark.slow
def test_workers_that_cannot_start_are_told(llm: Path, data_root: Path) -> None:
    save_set("sounds", {"train": free_rows(2)})
    with pytest.raises(UserError, match="no room for the model"):
        generate(config(llm), FREE, start_never, lambda service: LocalWorkers(service, 2))


@pytest.mark.slow
def test_workers_end_with_the_run_that_is_killed(llm: Path, data_root: Path, tmp_path: Path) -> None:
    """SIGKILL of the process that gives out rows: no worker is left behind."""
    save_set("sounds", {"train": free_rows(4)})
    code = (
        "import functools, os, sys\nfrom tests.generation.test_workers import config\n"
        "from tests.generation.workers import start_scripted\n"
        "from src.inference.local_workers import LocalWorkers\n"
        "from src.generation.task_types import FREE\n"
        "from src.generation.worker import answer_queue\n"
        "if __name__ == '__main__':\n"
        "    main = functools.partial(answer_queue, config(sys.argv[1]), FREE, start_scripted)\n"
        "    workers = LocalWorkers(main, 2)\n"
        "    ready = 0\n"
        "    while ready < 2:\n"
        "        ready += len(list(workers.wait()))\n"
        "    print(*(process.pid for process in workers._processes), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    done = subprocess.run([sys.executable, str(script), str(llm)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    workers = list(map(int, done.stdout.split()))
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.usefixtures("alone_with_ray")
def test_two_workers_of_ray(llm: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from src.inference.ray_workers import RayWorkers

    monkeypatch.chdir(REPO_ROOT)
    save_set("sounds", {"train": free_rows(ROWS)})
    raw = config(llm, "engine=ray", "engine.workers=2")
    assert generate(raw, FREE, start_scripted, lambda service: RayWorkers(service, 2)) == 0
    check(2)
