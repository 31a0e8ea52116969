"""Several machines and the Hub: rows M1, M2, M6 and M7 of the cases that broke."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.corpus.postprocess.merge import NEEDED
from src.dataset.sampler import LengthGrouping, StepPlan, StepSampler
from tests.support.hub_server import COMMIT, HubServer, hub_server
from tests.training.conftest import Run, run, world  # noqa: F401  fixtures

LENGTHS = np.random.default_rng(1).uniform(1, 30, 203).astype(np.float32)

PROCESS = """
import sys
from pathlib import Path
from src.common.cli import run_cli
from src.training.arguments import training_arguments, timeout_as_one_line
from src.training.config import bind_train_config
{body}
run_cli(main)
"""
FINDS = """
import src.training.resume as resume
resume.missing_files = lambda folder: [] if (folder / "trainer_state.json").is_file() else ["trainer_state.json"]
def main():
    import torch.distributed as distributed
    distributed.init_process_group("gloo")
    for given in sys.argv[1:]:
        folder, choice = given.split("=")
        try:
            print("found", resume.agreed_resume(choice or True, Path(folder)), flush=True)
        except resume.ConfigError as error:
            print("error", error, flush=True)
    distributed.destroy_process_group()
"""
WAITS = """
def main():
    import os, signal, torch
    from src.common.config import compose
    config = compose("train", ["model=mini_whisper", "dataset=mini", "training_args=mini",
        f"training_args.output_dir={sys.argv[1]}", "training_args.ddp_timeout=3"])
    args = training_arguments(bind_train_config(config))
    print("READY", flush=True)
    with timeout_as_one_line(args.ddp_timeout):
        torch.distributed.barrier()
        if args.process_index == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        torch.distributed.all_reduce(torch.ones(1))
"""


def processes(body: str, arguments: list[list[str]]) -> list[subprocess.Popen[str]]:
    """A Python process for each list of arguments, connected as a launcher would on machines of one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, given in enumerate(arguments):
        place = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(arguments)), "LOCAL_WORLD_SIZE": "1"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROCESS.format(body=body), *given],
                cwd=REPO_ROOT,
                env={**os.environ, **place, **address},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started: list[subprocess.Popen[str]]) -> list[tuple[int, str, list[str]]]:
    """Exit code, output and lines with ``error: `` of each."""
    done = []
    for process in started:
        out, said = process.communicate(timeout=120)
        assert "Traceback" not in said, said[-3000:]
        done.append((process.returncode, out, [line for line in said.splitlines() if line.startswith("error: ")]))
    return done


def checkpoint(folder: Path, step: int) -> Path:
    """As much of a checkpoint as its choice looks at."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return made


@pytest.mark.slow  # starts processes that join over the network
def test_m1_machines_agree_on_the_checkpoint(tmp_path: Path) -> None:
    """M1: the first process went on at step 20, the other at 0: wrong weights, and then both waited for ever.

    A shared folder, or the same checkpoint copied to each machine, is as good as it was.
    """
    here, there, copied = (tmp_path / name for name in ("here", "there", "copied"))
    checkpoint(here, 10)
    newest = checkpoint(here, 20)
    checkpoint(there, 10)
    shutil.copytree(here, copied)
    empty = tmp_path / "empty"
    cases = [  # what each of two processes is given
        (f"{here}=", f"{there}="),
        (f"{empty}=", f"{there}="),
        (f"{here}={newest}", f"{here}={there / 'checkpoint-20'}"),
        (f"{empty}={there}", f"{empty}={there}"),
        (f"{here}=", f"{copied}="),
        (f"{empty}=", f"{empty}="),
    ]
    done = finish(processes(FINDS, [list(given) for given in zip(*cases, strict=True)]))
    said = [out.splitlines() for _, out, _ in done]
    assert [code for code, _, _ in done] == [0, 0] and [len(lines) for lines in said] == [len(cases)] * 2
    for lines in said:
        assert [line.split()[0] for line in lines] == ["error"] * 4 + ["found"] * 2
        assert "process 0" in lines[0] and "step 20 (checkpoint-20), process 1" in lines[0] and "step 10" in lines[0]
        assert "step 0 (no checkpoint), process 1" in lines[1] and "that all machines share" in lines[1]
        assert "process 0" in lines[2] and "step 20" in lines[2] and "it lacks trainer_state.json" in lines[2]
        assert "not a whole checkpoint" in lines[3] and "process 1" not in lines[3]
        assert lines[4].endswith("checkpoint-20") and lines[5] == "found None"


def rows(steps: list[list[list[int]]]) -> list[int]:
    return [row for step in steps for batch in step for row in batch]


def epoch_from(
    sizes: list[tuple[int, int]], grouping: LengthGrouping, steps: int, **options: Any
) -> tuple[list[int], int]:
    """Rows of one epoch begun with each (clips, processes) in turn for ``steps`` steps; the last goes to its end."""
    seen: list[int] = []
    done: tuple[Any, ...] = ()
    for number, (clips, ranks) in enumerate(sizes):
        last = number == len(sizes) - 1
        taken = None if last else steps
        shards = []
        for rank in range(ranks):
            plan = StepPlan(clips, 2, grouping)
            sampler = StepSampler(203, plan, LENGTHS, 5, True, rank, ranks, **options)
            sampler.set_epoch(3)
            skipped = 0
            if done:
                epoch, skipped = sampler.resume(3, done)
                assert epoch == 3
            order = list(sampler)
            assert len(order) == len(sampler)
            shards.append(rows(order[skipped:][:taken]))
        done = sampler.done(steps)
        seen += list(itertools.chain.from_iterable(shards))
    return seen, len(seen)


@pytest.mark.parametrize("grouping", ["none", "within_step", "across_steps"])
@pytest.mark.parametrize(
    "sizes", [[(4, 1), (4, 2)], [(4, 2), (4, 1)], [(4, 1), (3, 2), (4, 1)], [(4, 1), (2, 2), (4, 1)]]
)
@pytest.mark.parametrize("drop_last", [False, True])
def test_m2_every_row_once_whatever_the_steps(
    grouping: LengthGrouping, sizes: list[tuple[int, int]], drop_last: bool
) -> None:
    """M2: steps were skipped by their count, so with twice the processes half of an epoch's rows came again."""
    seen, count = epoch_from(sizes, grouping, 5, drop_last=drop_last)
    assert len(set(seen)) == count
    clips, ranks = sizes[-1]
    assert 203 - count <= (clips * ranks if drop_last else ranks - 1)


@pytest.mark.parametrize("grouping", ["none", "within_step", "across_steps"])
def test_m2_the_same_rows_follow_with_steps_of_the_same_size(grouping: LengthGrouping) -> None:
    """M2: processes and clips that make the same step are no change: each step holds the rows it would have held."""
    whole = StepSampler(203, StepPlan(4, 2, grouping), LENGTHS, 5)
    expected = list(whole)
    again = [StepSampler(203, StepPlan(2, 2, grouping), LENGTHS, 5, rank=rank, world=2) for rank in (0, 1)]
    assert [sampler.resume(0, whole.done(7)) for sampler in again] == [(0, 7)] * 2
    parts = [list(sampler) for sampler in again]
    for number in range(7, len(again[0])):
        assert sorted(rows([parts[0][number], parts[1][number]])) == sorted(rows([expected[number]]))
    assert whole.done(7)[0] == dataclasses.replace(again[0].done(3)[0], steps=7)
    assert whole.resume(0, whole.done(len(whole))) == (1, 0)  # an epoch that is done is not begun again


def trained_rows(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Keys of the rows of every step that is trained from now on."""
    from src.training.trainer import AlarmTrainer

    steps: list[list[str]] = []
    usual = AlarmTrainer.training_step

    def noted(self: Any, model: Any, inputs: Any, *others: Any) -> Any:
        steps.append([key for batch in inputs for key in batch.keys])
        return usual(self, model, inputs, *others)

    monkeypatch.setattr(AlarmTrainer, "training_step", noted)
    return steps


@pytest.mark.parametrize("recorded", [True, False])
def test_m2_a_run_goes_on_at_the_same_row(
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    recorded: bool,
) -> None:
    """M2: two epochs, the first half of the first in steps of 4 rows, all that follows in steps of 8.

    Also of a checkpoint that was written before there was a record of the rows.
    """
    warned: list[str] = []
    monkeypatch.setattr("src.training.trainer.log.warning", lambda form, *values: warned.append(form % values))
    steps = trained_rows(monkeypatch)
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 5, "warmup_steps": 0}
    folder = run("sizes", max_steps=5, **settings)
    for path in folder.iterdir():
        if path.name != "checkpoint-5":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not recorded:
        (folder / "checkpoint-5" / "rows_done.json").unlink()
    run("sizes", "resume_from_checkpoint=true", max_steps=-1, per_device_train_batch_size=8, **settings)
    keys = [key for step in steps for key in step]
    epoch = len(keys) // 2
    assert len(steps[0]) == 4 and len(steps[5]) == 8
    assert len(warned) == 1 and "had 4 rows" in warned[0] and "after row 20 of 32 of epoch 1" in warned[0]
    assert len(set(keys[:epoch])) == epoch == len(set(keys[epoch:]))
    assert set(keys[:epoch]) == set(keys[epoch:])


@pytest.mark.slow  # waits until the timeout has passed
def test_m7_the_timeout_holds_on_a_cpu(tmp_path: Path) -> None:
    """M7: ``ddp_timeout`` reached accelerators alone; a stopped process held the others for 30 minutes."""
    started = processes(WAITS, [[str(tmp_path)], [str(tmp_path)]])
    assert all(process.stdout is not None and process.stdout.readline() == "READY\n" for process in started)
    begun = time.monotonic()
    try:
        code, _, errors = finish(started[:1])[0]
    finally:
        started[1].send_signal(signal.SIGKILL)
        started[1].communicate()
    assert time.monotonic() - begun < 30
    assert code == 1 and len(errors) == 1 and "training_args.ddp_timeout" in errors[0]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    from huggingface_hub import constants

    with hub_server() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running


@pytest.mark.parametrize("there", [True, False])
def test_m6_another_visibility_is_said(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    """M6: a repository that was to be public stayed private without a word; one made public by hand as well."""
    from src.common import hub_upload

    warned: list[str] = []
    monkeypatch.setattr(hub_upload.log, "warning", lambda form, *values: warned.append(form % values))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    hub.uploads.private["me/x"], hub.uploads.files["me/x"] = there, {}
    for private in (there, not there):
        assert not warned
        hub_upload.send_folder(tmp_path / "folder", "me/x", "dataset", private, "failed ({reason})")
    assert hub.uploads.files["me/x"]["file"] == b"x"
    assert len(warned) == 1 and ("is private" if there else "is public") in warned[0]


def test_m6_a_commit_that_is_never_answered_has_an_end(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """M6: the Hub's client waits for an answer without end."""
    from huggingface_hub import get_session

    from src.common import hub_upload

    commits = []
    answered = threading.Event()

    def silent(self: Any, repo: str, body: bytes) -> None:
        commits.append(repo)
        answered.wait(60)

    monkeypatch.setattr(hub.RequestHandlerClass, "commit", silent)
    monkeypatch.setattr(hub_upload, "SECONDS", 0.3)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    (tmp_path / "file").write_text("x")
    try:
        with pytest.raises(UserError, match=r"me/x: failed \(.*timed out"):
            hub_upload.send_folder(tmp_path, "me/x", "dataset", True, "failed ({reason})")
    finally:
        answered.set()
    assert 1 <= len(commits) <= 6
    assert get_session().timeout.read is None  # others wait as they did


LOADS = """
import sys
from src.common.cli import run_cli
from src.common.log import setup_logging
def main():
    setup_logging()
    from src.common import retry
    retry.HUB_RETRIES = retry.RetryPolicy(attempts=3, first_wait=0.1)
    name = sys.argv[1]
    from src.benchmarks.run_loader import open_hub
    from src.corpus.postprocess.merge import open_published
    from src.generation.config import DatasetConfig
    from src.generation.input_dataset import open_tables
    ways = {
        "run": lambda: open_tables(DatasetConfig(name), 0)[0].data,
        "report": lambda: open_hub(name)["train"],
        "merge": lambda: open_published(name).splits["train"],
    }
    print("rows", len(ways[sys.argv[2]]()), flush=True)
run_cli(main)
"""


@pytest.mark.parametrize(
    ("way", "statuses", "rows"),
    [
        ("run", [200, 500], 4),
        ("report", [200, 503], 4),
        ("merge", [200, 500], 4),
        ("run", [429, 200, 502], 4),
        ("run", [200, 0, 0], 4),
        ("run", [502] * 50, None),
        ("run", [404] * 50, None),
        ("report", [401] * 50, None),
    ],
    ids=lambda value: str(value)[:14],
)
def test_m6_a_failing_request_of_a_data_set_is_tried_again(
    tmp_path: Path, way: str, statuses: list[int], rows: int | None
) -> None:
    """M6: one 500 on a shard ended the run, which said that the set was not on the Hub."""
    from datasets import Dataset

    Dataset.from_dict({name: list("abcd") for name in ("prompt", *NEEDED)}).to_parquet(tmp_path / "x.parquet")
    path = "data/train-00000-of-00001.parquet"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with hub_server() as hub:
        hub.repos["me/set"] = {path: (tmp_path / "x.parquet").read_bytes()}
        hub.failures[f"/datasets/me/set/resolve/{COMMIT}/{path}"] = list(statuses)
        done = subprocess.run(
            [sys.executable, "-c", LOADS, "me/set", way],
            cwd=REPO_ROOT,
            env={**environment, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
        )
        left = len(next(iter(hub.failures.values())))
    if rows is not None:
        assert done.stdout.split() == ["rows", str(rows)], done.stderr[-2000:]
        return
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert ("3 attempts failed" in line) == (statuses[0] == 502)
    assert 20 <= left < 50
