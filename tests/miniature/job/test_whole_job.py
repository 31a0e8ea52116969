"""The whole main job at a small size, with the real engine and real launches: every stage, twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.paths import REPO_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.launch]


def run_job(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/mini/run_main_job.py", "--size", "small", "--out", str(out)]
    return subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=2400)


def test_the_small_job_runs_whole_and_skips_what_is_done(tmp_path: Path) -> None:
    done = run_job(tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["system"], row["metric"]): row for row in results["rows"]}
    for system in ("ALARM-CA", "ALARM-P", "AL-Whisper", "Text oracle", "No audio", "Wrong audio"):
        found = [metric for name, metric in rows if name == system]
        assert any("accuracy" in metric for metric in found), (system, found)
    for row in results["rows"]:
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"], row
    page = (tmp_path / "report.html").read_text()
    assert "ALARM-CA" in page and "data:audio" in page
    for run in (tmp_path / "saved").iterdir():
        digest = json.loads((run / "run.json").read_text())["llm_digest"]
        assert digest["before"] == digest["after"], "the frozen language model changed"

    again = run_job(tmp_path)
    assert again.returncode == 0, again.stderr[-4000:]
    assert "train_mini_alarm_ca: done before" in again.stderr
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == results["rows"]
