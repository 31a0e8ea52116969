"""Run records, row seeds, errors at the edge of a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.common.cli import run_cli
from src.common.errors import ConfigError, UserError
from src.common.files import write_json
from src.common.run_record import write_run_record
from src.common.seeds import row_seed

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_record_says_what_made_the_run(tmp_path: Path) -> None:
    write_run_record(tmp_path, {"seed": 3, "nested": {"a": [1]}}, checkpoint="x")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"] == {"seed": 3, "nested": {"a": [1]}}
    assert record["checkpoint"] == "x"
    assert set(record["git"]) == {"commit", "dirty"}
    assert "torch" in record["versions"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_rows_seed_depends_on_seed_and_key_alone() -> None:
    assert row_seed(1, "train/7") == row_seed(1, "train/7")
    assert len({row_seed(seed, key) for seed in (1, 2) for key in ("a", "b")}) == 4


@pytest.mark.parametrize(("error", "code"), [(UserError("no file"), 1), (ConfigError("no key"), 2)])
def test_a_users_mistake_is_one_line_and_a_code(
    error: UserError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_cli(fail)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_output_that_nobody_reads_is_no_traceback() -> None:
    script = "from src.common.cli import run_cli; run_cli(lambda: print('line\\n' * 100000))"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
