"""No test reads or writes the repository's own data; every test sees each log record once."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

# Imitations of the Hub are asked over the loopback; huggingface_hub reads these when it is imported.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.pop(name, None)


DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds of the tests that took longer than :data:`BRIEF`, by file and function, fixtures made for them included."""
BRIEF = 0.3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations",
        action="store_true",
        help=f"replace the entries of {DURATIONS.name} for the files that run",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_DurationRecorder())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what took longer than :data:`BRIEF` when it was recorded, next to what says so itself.

    The files that took longest come first: last, one of them would run alone. pytest-xdist keeps to this order.
    """
    recorded = json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}
    seconds: defaultdict[Path, float] = defaultdict(float)
    for item in items:
        took = recorded.get(_name(item.nodeid))
        seconds[item.path] += took or BRIEF / 10
        if took is not None:
            item.add_marker("slow")
    items.sort(key=lambda item: -seconds[item.path])


class _DurationRecorder:
    """Adds up the seconds of each test function, of its slowest parameters."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        slowest: dict[str, float] = {}
        for node, seconds in self._seconds.items():
            slowest[_name(node)] = max(slowest.get(_name(node), 0.0), round(seconds, 1))
        ran = {name.partition("::")[0] for name in slowest}
        before = json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}
        found = {name: seconds for name, seconds in before.items() if name.partition("::")[0] not in ran}
        found |= {name: seconds for name, seconds in slowest.items() if seconds >= BRIEF}
        kept = dict(sorted(found.items()))
        DURATIONS.write_text(json.dumps(kept, indent=0) + "\n", encoding="utf-8")


def _name(node: str) -> str:
    """File and function of a test's id, without its parameters."""
    return node.split("[", 1)[0]


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
