"""One small world for all training tests: a corpus, a tiny language model, and runs by configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.common.config import compose
from tests.support.tiny_corpus import make_corpus
from tests.support.tiny_llm import save_tiny_llm

Run = Callable[..., Path]
RATES = (8000, 16000, 24000, 44100)
"""Sampling rates of the clips: every batch is likely to mix several, and both splits have all of them."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with ``llm`` and ``datasets``; ``ALARM_DATA_ROOT`` points at the latter for the whole session."""
    folder = tmp_path_factory.mktemp("world")
    before = os.environ.get("ALARM_DATA_ROOT")
    os.environ["ALARM_DATA_ROOT"] = str(folder / "datasets")
    make_corpus(40, 8, rates=RATES)
    save_tiny_llm(folder / "llm")
    yield folder
    os.environ.pop("ALARM_DATA_ROOT")
    if before is not None:
        os.environ["ALARM_DATA_ROOT"] = before


def overrides(world: Path, output: Path, *extra: str, model: str = "mini_w2vbert", **training_args: Any) -> list[str]:
    """Command line of a small run: six steps of four clips, layer norms only, nothing random but the start."""
    values = {
        "output_dir": output,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "warmup_steps": 2,
        "learning_rate": 2e-3,
        **training_args,
    }
    return [
        f"model={model}",
        "dataset=mini",
        "training_args=mini",
        "random_weights=true",
        f"model.llm={world / 'llm'}",
        *(f"training_args.{key}={value}" for key, value in values.items()),
        *extra,
    ]


@pytest.fixture(scope="session")
def shared_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Like ``run`` without a name, but trains the same options once for all tests, which only read the folder."""
    from src.training.run import run_training

    folder = tmp_path_factory.mktemp("shared_runs")
    done: dict[tuple[Any, ...], Path] = {}

    def start(*extra: str, model: str = "mini_w2vbert", **training_args: Any) -> Path:
        key = (model, extra, tuple(sorted(training_args.items())))
        if key not in done:
            words = overrides(world, folder / str(len(done)), *extra, model=model, **training_args)
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
                done[key] = run_training(compose("train", words))
        return done[key]

    return start


@pytest.fixture()
def run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train in this process: ``run(name, "key=value", ..., training_arg=value)`` returns the output folder."""
    from src.training.run import run_training

    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))

    def start(name: str, *extra: str, model: str = "mini_w2vbert", **training_args: Any) -> Path:
        return run_training(compose("train", overrides(world, tmp_path / name, *extra, model=model, **training_args)))

    return start
