"""No test reads or writes the repository's own data; every test sees each log record once."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Imitations of the Hub are asked over the loopback; huggingface_hub reads these when it is imported.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.pop(name, None)


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


@pytest.fixture(autouse=True)
def log_records_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``caplog`` see the project's records through the root logger, whichever tests ran before.

    Programs set up logging of their own, which does not propagate. pytest (9.2, ``catching_logs``) then adds its
    handler to that logger as well, and a test that lets it propagate would count every record twice.
    """
    monkeypatch.setattr(logging.getLogger("alarm"), "propagate", True)


@pytest.fixture
def alone_with_ray() -> Iterator[None]:
    """No other test of this machine uses Ray meanwhile: a program without an address takes any cluster that runs."""
    with (Path(tempfile.gettempdir()) / "alarm-tests-ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
