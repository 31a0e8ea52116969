"""The data commands find the same data from every working directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.paths import REPO_ROOT


@pytest.mark.parametrize("folder", ["scripts/alarm", "."])
def test_commands_find_the_same_data_from_every_folder(folder: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ALARM_DATA_ROOT"}
    script = REPO_ROOT / "scripts" / "alarm" / "validate_data_order.py"
    command = [sys.executable, os.path.relpath(script, REPO_ROOT / folder), "no_such_corpus"]
    done = subprocess.run(command, cwd=REPO_ROOT / folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and re.search("unknown corpus 'no_such_corpus'", done.stderr)
    root = REPO_ROOT / "data" / "datasets"
    if not root.exists():
        done = subprocess.run(command[:-1], cwd=REPO_ROOT / folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and f"no corpus is collected in {root}/raw" in done.stderr and not root.exists()
