"""Rows P1, P3 and P8 for the benchmark collectors: two runs wrote one set, and a full disk ended in a traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from src.audio.errors import AudioError
from src.benchmarks.conversion import collect as conversion
from src.benchmarks.conversion.collect import collect_command
from src.common import lock
from src.common.cli import run_cli
from src.common.errors import MachineError, UserError
from src.common.lock import locked_folders
from src.common.paths import REPO_ROOT
from src.download.clips import find_below
from tests.benchmarks.conversion.test_collect import arguments, lay_out
from tests.regressions.test_processes import another_process

SCRIPTS = REPO_ROOT / "scripts/benchmarks/dataset_collection"


@pytest.fixture
def given(tmp_path: Path, data_root: Path) -> Path:
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


def test_p3_the_second_of_two_says_who_holds_the_set(
    given: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out("mmar", given)
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0.3)
    target = data_root / "raw" / "mmar"
    with another_process(target, 30) as other, pytest.raises(UserError) as refused:
        collect_command("mmar", arguments("--from-dir", str(given), "--overwrite"))
    said = f"{target}: another run is writing here (process {other.pid} on "
    assert str(refused.value).startswith(said) and not (target / "run.json").exists()


def test_p3_two_at_once_convert_once(given: Path, data_root: Path) -> None:
    lay_out("mmar", given)
    command = [sys.executable, str(SCRIPTS / "mmar.py"), "--from-dir", str(given), "--overwrite"]
    with locked_folders([data_root / "raw/mmar"]):  # so that both wait
        runs = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for run in runs:
            assert run.stderr is not None
            assert "waiting for another run" in run.stderr.readline()
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted("12 rows" in out for out, _ in said) == [False, True], said
    assert sorted("its results are kept" in err for _, err in said) == [False, True], said
    assert json.loads((data_root / "raw/mmar/run.json").read_text())["splits"]["test"]["rows"] == 12


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("name", "limit", "folder"), [("airbench", 1500, "downloads"), ("mmar", 6000, "raw/mmar")])
def test_p8_a_disk_that_takes_no_more_is_one_line(
    given: Path, data_root: Path, name: str, limit: int, folder: str
) -> None:
    """In the clips that are rewritten, and in the set."""
    lay_out(name, given)
    command = [sys.executable, "-c", LIMITED, str(limit), str(SCRIPTS / f"{name}.py"), "--from-dir", str(given)]
    done = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert said.startswith(f"error: {data_root / folder}") and "`ulimit -f` allows" in said
    assert not (data_root / "raw" / name / "dataset_dict.json").exists()


def test_p8_a_read_only_disk_is_one_line(
    given: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out("mmar", given)

    def read_only(path: Any, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: print(collect_command("mmar", arguments("--from-dir", str(given)))))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert ended.value.code == 1 and str(data_root) in said and "the file system is read-only" in said


def test_p8_a_broken_disk_leaves_no_row_out(given: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out("mmar", given)

    def broken(roots: Sequence[Path], path: str) -> Path:
        error = OSError(errno.EIO, "Input/output error", str(given / path))
        raise AudioError(f"{path}: cannot be read") from error

    monkeypatch.setattr(conversion, "find_below", broken)
    with pytest.raises(MachineError, match="the disk cannot be read or written"):
        collect_command("mmar", arguments("--from-dir", str(given), "--allow-missing"))


def test_p1_clips_of_one_name_in_several_folders_and_names_in_other_forms(tmp_path: Path) -> None:
    """The first folder's clip was taken, whatever it was; names of macOS were missing, long ones a traceback."""
    for name, content in {
        "a/x.wav": b"1", "b/x.wav": b"2", "a/y.wav": b"1", "b/y.wav": b"1", "b/cafe\u0301.wav": b"3",
        "caf\u00e9 2.wav": b"4",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"a/x.wav and .*b/x.wav are different files; give a folder with one of them"):
        find_below([tmp_path], "x.wav")
    assert find_below([tmp_path], "b/x.wav").read_bytes() == b"2"
    assert find_below([tmp_path], "y.wav") == tmp_path / "a/y.wav"
    assert find_below([tmp_path], "caf\u00e9.wav").read_bytes() == b"3"
    assert find_below([tmp_path], "cafe\u0301 2.wav").read_bytes() == b"4"
    for name in ("none.wav", "x" * 300, "x" * 5000):
        with pytest.raises(UserError, match="there is no"):
            find_below([tmp_path], name)
