"""A data root of its own for every test of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point ``ALARM_DATA_ROOT`` at an empty folder."""
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path / "datasets"))
    return tmp_path / "datasets"
