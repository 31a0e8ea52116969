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

from src.common.naming import model_short_name
from src.common.paths import REPO_ROOT

NAME = "killed"
LLM = "assets/mini/llm"
START_SECONDS = 15.0
"""About how long a run takes until its first answer; some kills fall into this time."""
IGNORED = ("seconds",)


@dataclass
class Report:
    """What was seen: rows finished at each kill, and everything that was wrong."""

    rows: int
    finished_at_kill: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.rows} rows, {len(self.finished_at_kill)} kills, {self.seconds:.0f} s"
        yield f"rows finished at each kill: {' '.join(map(str, self.finished_at_kill))}"
        yield from self.faults or ["every row is there once, and equal to the undisturbed run"]


@dataclass(frozen=True)
class Campaign:
    """A data set and a checkpoint below ``folder``; ``start`` runs the public command on them.

    A kill comes up to ``jitter`` seconds after the row that it waits for.
    """

    folder: Path
    rows: int
    overrides: tuple[str, ...] = ()
    jitter: float = 0.2

    def prepare(self) -> None:
        """Write miniature clips with questions, and a front end with random weights."""
        os.environ["ALARM_DATA_ROOT"] = str(self.folder / "datasets")
        from src.model.checkpoints import save_checkpoint
        from tests.generation.conftest import free_rows, save_set
        from tests.support.tiny_models import mini_front_end, model_config

        save_set(NAME, {"train": free_rows(self.rows)})
        save_checkpoint(self.folder / "checkpoint", mini_front_end("mini_whisper"), model_config("mini_whisper"))

    def start(self, tag: str) -> subprocess.Popen[bytes]:
        """The command, in a process of its own."""
        command = [sys.executable, "generate_vllm.py", f"dataset.name={NAME}", "prompts=mini", f"run_tag={tag}"]
        command += [f"checkpoint_name={self.folder / 'checkpoint'}", "seed=0", "model.max_tokens=24"]
        command += ["model.max_thinking_tokens=16", "model.max_model_len=1024", "engine.kv_cache_gib=0.5"]
        environment = {**os.environ, "ALARM_DATA_ROOT": str(self.folder / "datasets")}
        log: Any = (self.folder / f"{tag}.log").open("ab")
        command += self.overrides
        return subprocess.Popen(
            command, cwd=REPO_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def output(self, tag: str) -> Path:
        """Its output folder, which may not be there yet."""
        generated = self.folder / "datasets" / "generated" / model_short_name(LLM)
        return next(generated.glob(f"{NAME}_*_{tag}"), generated / tag)

    def keys(self, tag: str) -> list[str]:
        """Keys of the finished records in its shards, in the order of their files."""
        found = []
        for part in sorted(self.output(tag).glob(".shards/part-*.jsonl")):
            for line in part.read_bytes().split(b"\n")[:-1]:
                found.append(json.loads(line)["key"])
        return found

    def saved(self, tag: str) -> list[dict[str, Any]]:
        """The rows of the assembled set."""
        from datasets import load_from_disk

        rows = load_from_disk(str(self.output(tag)))["train"]
        return [{name: value for name, value in row.items() if name not in IGNORED} for row in rows]


def run_campaign(campaign: Campaign, kills: int, seed: int = 0) -> Report:
    """One undisturbed run and one that is killed ``kills`` times, compared row by row."""
    started, rng, report = time.monotonic(), random.Random(seed), Report(campaign.rows)
    campaign.prepare()
    _finish(campaign, "whole", report)
    targets = sorted(rng.randrange(campaign.rows) for _ in range(kills))
    before: list[str] = []
    for number, target in enumerate(targets):
        process = campaign.start("killed")
        if number % 5 == 2:  # while it starts
            _sleep(process, rng.uniform(0, START_SECONDS))
        else:
            while process.poll() is None and len(campaign.keys("killed")) < target:
                time.sleep(0.02)
            _sleep(process, rng.uniform(0, campaign.jitter))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = campaign.keys("killed")
        if now[: len(before)] != before:
            report.faults.append(f"kill {number}: records that were finished are gone")
        before = now
        report.finished_at_kill.append(len(now))
    _finish(campaign, "killed", report)
    repeated = [key for key, count in Counter(campaign.keys("killed")).items() if count > 1]
    if repeated:
        report.faults.append(f"{len(repeated)} rows were finished more than once: {repeated[:5]}")
    if not report.faults:
        report.faults += _differences(campaign.saved("whole"), campaign.saved("killed"), campaign.rows)
    report.seconds = time.monotonic() - started
    return report


def _finish(campaign: Campaign, tag: str, report: Report) -> None:
    code = campaign.start(tag).wait()
    if code:
        tail = (campaign.folder / f"{tag}.log").read_text(errors="replace")[-2000:]
        report.faults.append(f"the run {tag} ended with exit code {code}:\n{tail}")


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _differences(whole: list[dict[str, Any]], killed: list[dict[str, Any]], rows: int) -> list[str]:
    if len(whole) != rows or [row["dataset_index"] for row in killed] != list(range(rows)):
        return [f"{len(killed)} rows are saved, expected {rows}, each once"]
    differing = [one["dataset_index"] for one, other in zip(whole, killed, strict=True) if one != other]
    return [f"{len(differing)} rows differ from the undisturbed run: {differing[:10]}"] if differing else []
