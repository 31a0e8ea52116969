"""A small campaign of kills over the real command; the large one is scripts/check_kills.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kill_campaign import Campaign, run_campaign


@pytest.mark.vllm
@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    # two rows at once: all of them in a batch would be finished before the first kill comes
    slow = ("engine.max_num_seqs=2",)
    report = run_campaign(Campaign(tmp_path, 60, slow, jitter=0.02), kills=3)
    assert not report.faults, "\n".join(report.lines())
    assert any(0 < finished < 60 for finished in report.finished_at_kill), "\n".join(report.lines())
