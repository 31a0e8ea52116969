"""No test reads or writes the repository's own data."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def scratch_data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point ``ALARM_DATA_ROOT`` at an empty folder for the whole session; tests may name another."""
    before = os.environ.get("ALARM_DATA_ROOT")
    os.environ["ALARM_DATA_ROOT"] = str(tmp_path_factory.mktemp("data_root") / "datasets")
    yield
    if before is None:
        os.environ.pop("ALARM_DATA_ROOT", None)
    else:
        os.environ["ALARM_DATA_ROOT"] = before
