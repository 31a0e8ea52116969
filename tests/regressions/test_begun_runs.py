"""Runs that were begun and killed before the row logs became one module go on where they stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.begun_runs import RECORDED, RUNS, place


@pytest.mark.parametrize("name", RUNS)
def test_a_run_begun_earlier_asks_only_for_what_is_missing_and_saves_the_same_set(tmp_path: Path, name: str) -> None:
    shutil.copytree(RECORDED / "datasets", tmp_path / "datasets")
    logs = {path: path.read_bytes() for path in tmp_path.rglob("part-*.jsonl")}
    requests, saved = json.loads((RECORDED / "outcomes.json").read_text(encoding="utf-8"))[name]
    with place(tmp_path):
        run, _ = RUNS[name]
        assert json.loads(json.dumps(run(None))) == [requests, saved]
        assert all(path.read_bytes().startswith(content.rpartition(b"\n")[0]) for path, content in logs.items())
        assert run(None)[0] == [], "a finished run asks for nothing"
