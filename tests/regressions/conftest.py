"""A data root of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    root = tmp_path / "data"
    monkeypatch.setenv("ALARM_DATA_ROOT", str(root))
    return root
