"""dry_run of a training: the numbers of the estimate, and that nothing is written."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from tests.support.tiny_corpus import make_rows
from tests.training.conftest import RATES, Run


def estimated(run: Run, tmp_path: Path, *extra: str, **training_args: object) -> dict:
    """The estimate of a run, which must leave no file next to its own."""
    file = tmp_path / "estimate.json"
    run("planned", "dry_run=true", "dry_run_steps=2", f"dry_run_json={file}", *extra, **training_args)
    assert not (tmp_path / "planned").exists()
    return dict(json.loads(file.read_text())["run"])


def test_rows_audio_tokens_and_time(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("alarm").propagate = True
    try:
        with caplog.at_level(logging.INFO, logger="alarm.training.dry_run"):
            found = estimated(
                run,
                tmp_path,
                "dry_run_price=2",
                "sample_generations=1",
                max_steps=-1,
                num_train_epochs=3,
                save_strategy="steps",
            )
    finally:
        logging.getLogger("alarm").propagate = False
    rows = [row for row in make_rows(40, rates=RATES) if row["dataset_index"] % 5]
    assert len(rows) == 32 and found["rows"] == 3 * 32 and found["sampled"] == 4 * 4 and found["bad"] == 0
    assert found["hours"] == pytest.approx(3 * sum(row["duration"] for row in rows) / 3600, rel=1e-4)
    assert found["notes"]["steps"].startswith("24, ") and found["notes"]["data set"].startswith("32 rows, ")
    assert found["seconds"] > 0 and found["device_hours"] == pytest.approx(found["seconds"] / 3600)
    assert found["cost"] == pytest.approx(2 * found["device_hours"])
    per_row = found["tokens"] / found["rows"]
    assert min(len(row["llm_answer_with_context"]) for row in rows) / 8 < per_row < 200
    assert "sample answers" in found["notes"]["not included"]
    for line in (
        "rows: 96",
        "target tokens: about",
        "CPU hours (of processes): about",
        "cost: about",
        "waiting for data",
    ):
        assert line in caplog.text


def test_a_resumed_run_has_fewer_steps_left(run: Run, shared_run: Run, tmp_path: Path) -> None:
    whole = shared_run(save_strategy="steps", save_steps=3)
    shutil.copytree(whole / "checkpoint-3", tmp_path / "begun" / "checkpoint-3")
    found = estimated(run, tmp_path, f"resume_from_checkpoint={tmp_path / 'begun' / 'checkpoint-3'}", max_steps=10)
    assert found["notes"]["steps"].startswith("7, ") and found["rows"] == 28
