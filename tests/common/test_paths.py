"""Where data is stored: the repository's folder from everywhere, another one by variable or by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.errors import ConfigError
from src.common.paths import REPO_ROOT, data_root, raw_dir, use_data_dir


@pytest.fixture(autouse=True)
def _variable_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", "replaced below")  # what a test sets is undone


@pytest.mark.parametrize("folder", [".", "scripts/alarm", "/"])
def test_the_root_is_the_repositorys_from_every_working_directory(folder: str) -> None:
    code = "from src.common.paths import raw_dir; print(raw_dir('esc50'))"
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT)}
    environment.pop("ALARM_DATA_ROOT")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT / folder, env=environment, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == REPO_ROOT / "data" / "datasets" / "raw" / "esc50"


def test_the_variable_names_the_folder_of_the_sets_or_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALARM_DATA_ROOT", str(tmp_path))
    assert raw_dir("esc50") == tmp_path / "raw" / "esc50"
    (tmp_path / "datasets").mkdir()
    assert data_root() == tmp_path / "datasets"
    (tmp_path / "raw").mkdir()  # sets of an earlier run stay found
    assert data_root() == tmp_path


def test_a_data_directory_takes_the_place_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_data_dir("data") == REPO_ROOT / "data" / "datasets" == data_root()
    assert use_data_dir("no_such_folder") == REPO_ROOT / "no_such_folder" / "datasets"
    assert use_data_dir(tmp_path) == tmp_path / "datasets" == data_root()
    with pytest.raises(ConfigError, match="data folder no_such_folder: no such folder"):
        use_data_dir("no_such_folder", must_exist=True)
    child = [sys.executable, "-c", "from src.common.paths import data_root; print(data_root())"]
    done = subprocess.run(child, cwd=REPO_ROOT, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == tmp_path / "datasets"
    (tmp_path / "here" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert use_data_dir("here") == tmp_path / "here"  # only in the working directory, and with the sets in it
