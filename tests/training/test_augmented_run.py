"""Training with augmentation: effects on record, resumed runs, data workers; and on given answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import ConfigError
from src.common.paths import raw_dir
from src.training.callbacks import read_metrics
from tests.support.tiny_corpus import RAW_COLUMNS, make_rows, save_split
from tests.training.conftest import Run

NOISY = ("augment.noise={snr:[0,10]}", "augment.speed={factor:[0.9,1.1]}", "dataset.train.limit=10")
SAVED = {"save_strategy": "steps", "save_steps": 3}


def effects(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "augmentation.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


def test_effects_are_recorded_and_a_resumed_run_repeats_them(run: Run) -> None:
    folder = run("noisy", *NOISY, **SAVED)
    whole, curve = effects(folder), losses(folder)
    assert [line["step"] for line in whole] == [1] * 4 + [2] * 4 + [3] * 2 + [4] * 4 + [5] * 4 + [6] * 2
    assert all([each["effect"] for each in line["effects"]] == ["speed", "noise"] for line in whole)
    epochs = [{line["key"]: line["effects"] for line in part} for part in (whole[:10], whole[10:])]
    assert epochs[0].keys() == epochs[1].keys() and len(epochs[0]) == 10
    assert all(epochs[0][key] != epochs[1][key] for key in epochs[0])
    shutil.rmtree(folder / "checkpoint-6")
    again = run("noisy", *NOISY, "resume_from_checkpoint=true", **SAVED)
    assert effects(again) == whole and losses(again) == pytest.approx(curve, rel=1e-4)


def test_data_workers_change_nothing(run: Run) -> None:
    one = run("here", *NOISY)
    other = run("workers", *NOISY, dataloader_num_workers=2)
    assert effects(one) == effects(other) and losses(one) == pytest.approx(losses(other), rel=1e-4)


def test_an_encoder_cache_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="encoder_cache_mb"):
        run("cached", *NOISY, "encoder_cache_mb=10")


def test_given_answers_are_learnt_and_answered_as_samples(run: Run, world: Path) -> None:
    rows = [row | {"text": "a bell.", "prompt": "which sound comes first?"} for row in make_rows(12)]
    save_split(raw_dir("bells"), rows, (*RAW_COLUMNS, "text", "prompt"))
    rows = [row | {"text": "a bell.", "prompt": "which sound comes first?"} for row in make_rows(2, seed=1)]
    save_split(raw_dir("more"), rows, (*RAW_COLUMNS, "text", "prompt"), "validation")
    own = (
        "dataset=own",
        "dataset.sets=[bells]",
        "dataset.eval_sets=[more]",
        "sample_generations=1",
        "sample_tokens=2",
    )
    folder = run("own", *own, eval_strategy="steps", eval_steps=6)
    assert losses(folder)[-1] < losses(folder)[0]
    written = json.loads((folder / "run.json").read_text())
    assert written["results"]["eval_more_loss"] > 0
    sample = json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])
    assert (sample["mode"], sample["prompt"]) == ("Text", "which sound comes first?")
    assert sample["target"] == "a bell."
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(world / "llm"))
    assert written["results"]["eval_more_tokens"] == 2 * len(tokenizer("a bell.<|im_end|>")["input_ids"])
