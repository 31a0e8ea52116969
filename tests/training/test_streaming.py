"""Training from shards over HTTP: the rows of every step after a resume and a kill, and errors of shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.retry import RetryPolicy
from src.dataset import remote_files
from src.dataset.shard_writer import ShardSettings, write_shards
from tests.support.shard_server import ShardServer, serve
from tests.support.stream_campaign import StreamCampaign, run_stream_campaign
from tests.support.tiny_corpus import RESPONSES
from tests.training.conftest import Run
from tests.training.test_run import losses, record


@pytest.fixture()
def server(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """The training and validation rows of the small world as shards behind a server."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
    monkeypatch.setattr(remote_files, "RETRIES", RetryPolicy(2, 0.0, 0.0, 5.0))
    for split in ("train", "validation"):
        write_shards(RESPONSES, tmp_path / "web" / split, ShardSettings(split, shard_mb=0.4))
    with serve(tmp_path / "web") as started:
        yield started


def options(server: ShardServer, tmp_path: Path, *more: str) -> list[str]:
    """Overrides of a run of six steps of four rows; ``dataset`` is given twice, and the last one counts."""
    return [
        "dataset=shards",
        f"dataset.shards=[{server.url}/train]",
        f"dataset.eval_shards=[{server.url}/validation]",
        "dataset.stream.shuffle_rows=6",
        f"dataset.stream.cache_dir={tmp_path / 'cache'}",
        "sample_generations=false",
        *more,
    ]


def test_a_resumed_run_has_the_losses_of_a_whole_one(run: Run, server: ShardServer, tmp_path: Path) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    words = options(server, tmp_path)
    whole = run("whole", *words, **saved, dataloader_num_workers=1)
    fetched = [name for name in server.asked if name.startswith("/train/") and name.endswith(".tar")]
    assert len(fetched) == len(set(fetched)) > 3
    rows_done = json.loads((whole / "checkpoint-4" / "rows_done.json").read_text())
    assert set(rows_done["stream"]) == {"digest", "seed"}
    assert record(whole)["results"]["eval_validation_loss"] > 0
    shutil.copytree(whole, tmp_path / "half")
    for name in ("checkpoint-6", "model.safetensors", "run.json"):
        path = tmp_path / "half" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    half = run("half", *words, "resume_from_checkpoint=true", **saved)
    assert record(half)["resumed_from"].endswith("checkpoint-4")
    assert losses(half) == losses(whole)
    with pytest.raises(UserError, match="another seed, other shards, rows of them or shuffle_rows"):
        changed = options(
            server, tmp_path, "dataset.stream.shuffle_rows=7", f"resume_from_checkpoint={whole}/checkpoint-4"
        )
        run("other", *changed, **saved)


def test_a_shard_that_cannot_be_fetched_ends_the_run_in_one_line(
    run: Run, server: ShardServer, tmp_path: Path
) -> None:
    server.failures, server.only = 1000, ".tar"
    with pytest.raises(UserError) as raised:
        run("failed", *options(server, tmp_path), dataloader_num_workers=1)
    message = str(raised.value)
    assert message.startswith(f"{server.url}/train/0") and ".tar: 2 attempts failed" in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.launch
def test_a_killed_run_of_two_processes_repeats_nothing(tmp_path: Path) -> None:
    campaign = StreamCampaign(tmp_path, rows=400, shards=10, step_rows=16, shuffle_rows=80, save_steps=5)
    report = run_stream_campaign(campaign, kills=1)
    assert not report.faults and len(report.kills) == 1
