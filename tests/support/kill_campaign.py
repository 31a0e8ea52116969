"""Generation under SIGKILL: a run is killed again and again, and must end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.common.paths import REPO_ROOT

NAME = "killed"
START_SECONDS = 15.0
"""About how long a run takes until its first answer; some kills fall into this time."""
STOP_SECONDS = 15
"""``engine.worker_timeout`` of runs with a stopped worker."""
ORPHAN_SECONDS = 40.0
"""How long processes may outlive their run; a worker has 20 s to free its device."""
IGNORED = ("seconds",)


@dataclass
class Report:
    """Rows finished at each kill and stop, and everything that was wrong."""

    rows: int
    finished_at_kill: list[int] = field(default_factory=list)
    stopped_at: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """For people."""
        counts = f"{len(self.finished_at_kill)} kills, {len(self.stopped_at)} stopped workers"
        yield f"{self.rows} rows, {counts}, {self.seconds:.0f} s"
        yield f"rows finished at each kill: {' '.join(map(str, self.finished_at_kill))}"
        if self.stopped_at:
            yield f"rows finished at each stop: {' '.join(map(str, self.stopped_at))}"
        yield from self.faults or ["every row is there once, and equal to the undisturbed run"]


@dataclass(frozen=True)
class Campaign:
    """A data set and a checkpoint below ``folder``, on which a public command runs.

    A kill comes up to ``jitter`` seconds after the row that it waits for.
    """

    folder: Path
    rows: int
    overrides: tuple[str, ...] = ()
    jitter: float = 0.2

    def prepare(self) -> None:
        """Write miniature clips with questions, and an audio embedder with random weights."""
        os.environ["ALARM_DATA_ROOT"] = str(self.folder / "datasets")
        from src.model.checkpoints import save_checkpoint
        from tests.generation.conftest import free_rows, save_set
        from tests.support.tiny_models import mini_audio_embedder, model_config

        save_set(NAME, {"train": free_rows(self.rows)})
        save_checkpoint(self.folder / "checkpoint", mini_audio_embedder("mini_whisper"), model_config("mini_whisper"))

    def command(self) -> list[str]:
        """Program and settings."""
        command = ["generate_vllm.py", f"dataset.name={NAME}", "prompts=mini", "seed=0", "model.max_tokens=24"]
        command += [f"checkpoint_name={self.folder / 'checkpoint'}", "model.max_thinking_tokens=16"]
        return [*command, "model.max_model_len=1024", "engine.kv_cache_gib=0.5"]

    def start(self, tag: str, *overrides: str) -> subprocess.Popen[bytes]:
        """The command, in a process of its own."""
        command = [sys.executable, *self.command(), f"run_tag={tag}", *self.overrides, *overrides]
        environment = {**os.environ, "ALARM_DATA_ROOT": str(self.folder / "datasets")}
        log: Any = (self.folder / f"{tag}.log").open("ab")
        return subprocess.Popen(
            command, cwd=REPO_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def output(self, tag: str) -> Path:
        """Its output folder, which may not be there yet."""
        generated = self.folder / "datasets" / "generated"
        return next(generated.glob(f"*/*_{tag}"), generated / tag)

    def keys(self, tag: str) -> list[str]:
        """Keys of the finished records in its shards, in the order of their files."""
        found = []
        for part in sorted(self.output(tag).glob(".shards/part-*.jsonl")):
            for line in part.read_bytes().split(b"\n")[:-1]:
                found.append(json.loads(line)["key"])
        return found

    def saved(self, tag: str) -> list[dict[str, Any]]:
        """The rows of the assembled set, split by split, with their split."""
        from datasets import load_from_disk

        splits = load_from_disk(str(self.output(tag)))
        rows = ({"split": split, **row} for split, data in splits.items() for row in data)
        return [{name: value for name, value in row.items() if name not in IGNORED} for row in rows]


def run_campaign(campaign: Campaign, kills: int, seed: int = 0, stops: int = 0) -> Report:
    """One undisturbed run and one that is killed ``kills`` times, compared row by row.

    Every second kill takes the main process only: what it has started must end by itself. Then ``stops`` runs with
    two workers, of which one is stopped, are compared too.
    """
    started, rng, report = time.monotonic(), random.Random(seed), Report(campaign.rows)
    campaign.prepare()
    _finish(campaign.start("whole"), campaign, "whole", report)
    targets = sorted(rng.randrange(campaign.rows) for _ in range(kills))
    before: list[str] = []
    for number, target in enumerate(targets):
        process = campaign.start("killed")
        if number % 5 == 2:  # while it starts
            _sleep(process, rng.uniform(0, START_SECONDS))
        else:
            _wait_for_rows(process, campaign, "killed", target)
            _sleep(process, rng.uniform(0, campaign.jitter))
        if process.poll() is None and number % 2:
            process.kill()
            report.faults += _orphans(process.pid, f"kill {number}")
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = campaign.keys("killed")
        if now[: len(before)] != before:
            report.faults.append(f"kill {number}: records that were finished are gone")
        before = now
        report.finished_at_kill.append(len(now))
    _finish(campaign.start("killed"), campaign, "killed", report)
    _compare(campaign, "killed", report)
    for number in range(stops):
        tag = f"stopped{number}"
        process = campaign.start(tag, "engine.workers=2", f"engine.worker_timeout={STOP_SECONDS}")
        _wait_for_rows(process, campaign, tag, rng.randrange(1, max(2, campaign.rows // 4)))
        workers = [pid for pid in _session(process.pid) if b"spawn_main" in _command(pid)]
        if workers and process.poll() is None:
            stopped = rng.choice(workers)
            os.kill(stopped, signal.SIGSTOP)
            report.stopped_at.append(len(campaign.keys(tag)))
        _finish(process, campaign, tag, report)
        _compare(campaign, tag, report)
        report.faults += _orphans(process.pid, tag)
    report.seconds = time.monotonic() - started
    return report


def _compare(campaign: Campaign, tag: str, report: Report) -> None:
    """Every row was finished once, and is saved as in the undisturbed run."""
    repeated = [key for key, count in Counter(campaign.keys(tag)).items() if count > 1]
    if repeated:
        report.faults.append(f"{tag}: {len(repeated)} rows were finished more than once: {repeated[:5]}")
    if not report.faults:
        report.faults += _differences(campaign.saved("whole"), campaign.saved(tag), campaign.rows)


def _wait_for_rows(process: subprocess.Popen[bytes], campaign: Campaign, tag: str, count: int) -> None:
    while process.poll() is None and len(campaign.keys(tag)) < count:
        time.sleep(0.02)


def _session(leader: int) -> list[int]:
    """Processes that a run has started: those of its session, which have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(numbers[2]) == leader and state != "Z" and int(folder.name) != leader:
            found.append(int(folder.name))
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _orphans(leader: int, when: str) -> list[str]:
    """A fault if processes outlive the main process of their run."""
    until = time.monotonic() + ORPHAN_SECONDS
    while (left := _session(leader)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return [f"{when}: {len(left)} processes are left behind"] if left else []


def _finish(process: subprocess.Popen[bytes], campaign: Campaign, tag: str, report: Report) -> None:
    code = process.wait()
    if code:
        tail = (campaign.folder / f"{tag}.log").read_text(errors="replace")[-2000:]
        report.faults.append(f"the run {tag} ended with exit code {code}:\n{tail}")


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _differences(whole: list[dict[str, Any]], killed: list[dict[str, Any]], rows: int) -> list[str]:
    named = [[(row["split"], row["dataset_index"]) for row in each] for each in (whole, killed)]
    if len(set(named[0])) != rows or named[0] != named[1]:
        return [f"{len(killed)} rows are saved, expected {rows}, each once"]
    differing = [one["dataset_index"] for one, other in zip(whole, killed, strict=True) if one != other]
    return [f"{len(differing)} rows differ from the undisturbed run: {differing[:10]}"] if differing else []
