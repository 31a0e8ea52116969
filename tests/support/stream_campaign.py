"""Training from shards over HTTP under SIGKILL: the order must be that of an undisturbed run, with every row once."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from src.common.files import read_json_lines
from src.common.paths import REPO_ROOT, raw_dir
from tests.support.shard_server import ShardServer, serve
from tests.support.stream_training import rows_file

NAME = "streamed"
CLIP_SECONDS = 0.05
_RATE = 16000
Recorded = list[dict[int, list[str]]]
"""For each process: step -> keys of its rows."""


@dataclass(frozen=True)
class StreamCampaign:
    """Rows in ``shards`` shards, trained on by ``processes`` with ``workers`` each, in steps of ``step_rows``."""

    folder: Path
    rows: int = 100_000
    shards: int = 100
    processes: int = 2
    workers: int = 1
    step_rows: int = 128
    shuffle_rows: int = 5000
    save_steps: int = 50

    @property
    def steps(self) -> int:
        """Steps of the one epoch."""
        return -(-self.rows // self.step_rows)

    def prepare(self) -> None:
        """Write a set of short clips, and shards of it."""
        os.environ["ALARM_DATA_ROOT"] = str(self.folder / "datasets")
        from src.dataset.shard_index import read_index
        from src.dataset.shard_writer import ShardSettings, write_shards

        _save_raw(self.rows)
        row_bytes = 512 * 2 + 512 + -(-(44 + 2 * int(CLIP_SECONDS * _RATE)) // 512) * 512
        size = self.rows * row_bytes / self.shards / 1e6
        write_shards(NAME, self.folder / "web" / NAME, ShardSettings(shard_mb=size, prompt="what is it?"))
        assert abs(len(read_index(str(self.folder / "web" / NAME)).shards) - self.shards) <= 0.1 * self.shards + 1

    def start(self, tag: str, url: str, seed: int) -> subprocess.Popen[bytes]:
        """Train, or continue, in processes of their own."""
        sizes = [path.stat().st_size for path in (self.folder / "web" / NAME).glob("*.tar")]
        in_use = self.shuffle_rows // (self.rows // self.shards) + 5
        options = [
            "model=mini_whisper", "random_weights=true", "dataset=shards", f"dataset.shards=[{url}/{NAME}]",
            "dataset.modes=[Text]", f"dataset.stream.shuffle_rows={self.shuffle_rows}",
            f"dataset.stream.cache_dir={self.folder / f'cache-{tag}'}",
            f"dataset.stream.cache_gb={in_use * max(sizes) / 1e9}", "training_args=mini",
            f"training_args.output_dir={self.folder / tag}", "training_args.num_train_epochs=1",
            "training_args.max_steps=-1", "training_args.save_strategy=steps", "training_args.report_to=none",
            f"training_args.save_steps={self.save_steps}", "training_args.save_total_limit=2",
            f"training_args.per_device_train_batch_size={self.step_rows // self.processes}",
            f"training_args.dataloader_num_workers={self.workers}", f"seed={seed}", "resume_from_checkpoint=true",
        ]  # fmt: skip
        launcher = ["-m", "accelerate.commands.launch", "--config-file", "src/configs/accelerate/cpu.yaml"]
        launcher += ["--num-processes", str(self.processes), "--module"]
        command = [sys.executable, *(launcher if self.processes > 1 else ["-m"]), "tests.support.stream_training"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log: Any = (self.folder / f"{tag}.log").open("ab")
        return subprocess.Popen(
            [*command, *options], cwd=REPO_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )

    def recorded(self, tag: str) -> Recorded:
        """For each process the rows of every step; of a step that was repeated, the last."""
        files = [rows_file(self.folder / tag, rank) for rank in range(self.processes)]
        return [{line["step"]: line["keys"] for line in read_json_lines(file, skip_broken=True)} for file in files]


def _save_raw(rows: int) -> None:
    from datasets import Audio, Dataset, DatasetDict

    from tests.support.tiny_corpus import wav_bytes

    clips = [wav_bytes(CLIP_SECONDS, seed, _RATE) for seed in range(16)]

    def batch(start: int, stop: int) -> dict[str, list[Any]]:
        numbers = range(start, stop)
        return {
            "audio": [{"bytes": clips[number % len(clips)], "path": f"{number}.wav"} for number in numbers],
            "text": [f"row {number}" for number in numbers],
            "dataset_index": list(numbers),
            "duration": [CLIP_SECONDS] * len(numbers),
        }

    data = Dataset.from_dict(batch(0, rows)).cast_column("audio", Audio(decode=False))
    DatasetDict({"train": data.cast_column("audio", Audio())}).save_to_disk(str(raw_dir(NAME)))


@dataclass
class StreamReport:
    """Result of the comparison; ``faults`` is empty if the runs agree."""

    campaign: StreamCampaign
    kills: list[int] = field(default_factory=list)
    repeated: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        done = self.campaign
        yield f"{done.rows} rows in {done.shards} shards, {done.processes} processes with {done.workers} workers each"
        yield f"steps of {done.step_rows} rows: {done.steps}; killed at step {', '.join(map(str, self.kills))}"
        yield f"steps trained twice because of the kills, with the same rows in the same order: {self.repeated}"
        for tag, seconds in self.seconds.items():
            yield f"{tag}: {seconds / 60:.1f} min, {self.requests.get(tag, 0)} shards fetched"
        yield from self.faults or ["same order as without a kill; every row once"]


def run_stream_campaign(campaign: StreamCampaign, kills: int, seed: int = 0) -> StreamReport:
    """One undisturbed run and one that is killed at ``kills`` random steps and continued, compared step by step."""
    report, rng = StreamReport(campaign), random.Random(seed)
    began = time.monotonic()
    campaign.prepare()
    report.seconds["preparing"] = time.monotonic() - began
    with serve(campaign.folder / "web") as server:
        whole = _until_end(campaign, "whole", server, report, seed, ())
        targets = sorted(rng.sample(range(campaign.save_steps + 1, campaign.steps), kills))
        killed = _until_end(campaign, "killed", server, report, seed, targets)
    _compare(campaign, whole, killed, report)
    return report


def _until_end(
    campaign: StreamCampaign, tag: str, server: ShardServer, report: StreamReport, seed: int, targets: Any
) -> Recorded:
    began, asked = time.monotonic(), len(server.asked)
    for target in targets:
        process = campaign.start(tag, server.url, seed)
        while process.poll() is None and max(campaign.recorded(tag)[0], default=0) < target:
            time.sleep(0.5)
        if process.poll() is not None:
            report.faults.append(f"{tag} ended with exit code {process.returncode} before step {target}")
            break
        _kill(process)
        report.kills.append(max(campaign.recorded(tag)[0], default=0))
    code = campaign.start(tag, server.url, seed).wait()
    if code:
        end = (campaign.folder / f"{tag}.log").read_text().splitlines()[-1:]
        report.faults.append(f"{tag} ended with exit code {code}: {' '.join(end)}")
    report.seconds[tag] = time.monotonic() - began
    report.requests[tag] = sum(name.endswith(".tar") for name in itertools.islice(server.asked, asked, None))
    return campaign.recorded(tag)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a run with all that it has started at once: the launcher's processes are in sessions of their own."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(started)


def _compare(campaign: StreamCampaign, whole: Recorded, killed: Recorded, report: StreamReport) -> None:
    for rank, (one, other) in enumerate(zip(whole, killed, strict=True)):
        different = [step for step in one if one[step] != other.get(step)]
        if different or set(one) != set(other):
            report.faults.append(f"process {rank}: other rows at steps {different[:5]}")
        lines = read_json_lines(rows_file(campaign.folder / "killed", rank), skip_broken=True)
        seen: dict[int, list[str]] = {}
        for line in lines:
            report.repeated += line["step"] in seen and rank == 0
            if seen.setdefault(line["step"], line["keys"]) != line["keys"]:
                report.faults.append(f"process {rank}: step {line['step']} had other rows when it was repeated")
    for tag, steps in (("whole", whole), ("killed", killed)):
        counts = Counter(key for each in steps for keys in each.values() for key in keys)
        twice, lost = sum(count > 1 for count in counts.values()), campaign.rows - len(counts)
        if twice or lost:
            report.faults.append(f"{tag}: {twice} rows twice, {lost} lost")
    order = [int(key.rsplit("/", 1)[1]) for step in sorted(whole[0]) for key in whole[0][step]]
    if np.all(np.diff(order) > 0):
        report.faults.append("the rows are not shuffled")
