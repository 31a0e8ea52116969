"""``targets_end``: whether targets end with the language model's end-of-turn token, and that a run learns it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from src.common.config import compose
from src.training.build import build_model, open_data
from src.training.config import bind_train_config
from tests.training.conftest import Run, overrides


def outputs(world: Path, *extra: str) -> list[list[int]]:
    config = bind_train_config(compose("train", overrides(world, world / "out", *extra)))
    built = build_model(config)
    train = open_data(config, built.tokenizer, built.config).train
    assert train is not None
    return [train[place].outputs for place in range(4)]


def test_targets_end_as_they_are_generated_unless_asked(
    world: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(world / "datasets"))
    plain = outputs(world)
    assert outputs(world, "targets_end=none") == plain
    with caplog.at_level(logging.INFO):
        ended = outputs(world, "targets_end=end_of_turn")
    assert ended == [[*ids, 2] for ids in plain] and 2 not in {token for ids in plain for token in ids}
    assert "targets end with <|im_end|>" in caplog.text and "does not stop" not in caplog.text


def test_a_run_counts_the_token_and_its_answers_are_compared_without_it(run: Run) -> None:
    folder = run(
        "ended", "targets_end=end_of_turn", "sample_generations=1", "sample_tokens=4", max_steps=1, save_steps=1
    )
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines and all("<|im_end|>" not in line["target"] + line["answer"] for line in lines)
