"""Every performance program runs on tiny input and writes rows of one form; their times are not looked at."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.perf import _bench
from src.common.errors import UserError
from src.common.paths import ASSETS, REPO_ROOT
from src.model.checkpoints import save_checkpoint
from tests.serving.client import running
from tests.serving.fakes import FakeEnsemble
from tests.support.tiny_corpus import make_corpus
from tests.support.tiny_models import mini_audio_embedder, model_config

KEYS = {"name", "unit", "ours", "baseline", "ratio", "device", "range", "rounds", "command", "seconds", "commit"}
LOAD = {"other_cores", "steal"}
"""Written where the system counts them."""
LIGHT = {
    "decode": "--rounds 2",
    "features": "--rounds 1 --seconds 1 --clips 2 --rate 16000",
    "score": "--rounds 3 --rows 200 --resamples 20",
    "unpack": "--rounds 1 --files 20",
}
"""Arguments of programs that take about a second."""
HEAVY = {
    "corpus": "--rounds 1 --root {tmp}/corpus --files 2 --seconds 0.2 --rows 20 --jobs 1",
    "data": "--rounds 1 --clips 4 --least 0.5 --longest 1 --batch 2",
    "encode": "--rounds 1 --encoders sslam --layers 1 --seconds 1 --dtype float32",
    "load_checkpoint": "--rounds 1 --model sslam --llm-layers 0 --vocabulary 1000",
    "objectives": "--rounds 1 --size tiny --rows 1 --targets 8 --frames 8 --only",
    "open_dataset": "--rounds 1 --root {tmp}/sets --scale 0.00001",
    "train_step": "--rounds 1 --size tiny --device cpu --clips 2 --only ends",
}
"""Those that compute for some seconds, or start processes."""
GPU = "--rounds 1 --size tiny --device cpu --longest 2"
WITH_VLLM = {
    "generate": "--rounds 1 --clips 4 --sequences 2 --median 6 --budget 8 --batch 2",
    "serve": "--rounds 1 --checkpoint {checkpoint} --requests 4 --clients 2 --max-tokens 8 --budget 4 --context 768",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint with random weights for the shipped language model, and the data set that it is evaluated on."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALARM_DATA_ROOT", str(folder / "datasets"))
        make_corpus(8, 2)
        config = model_config("mini_whisper", f"model.llm={ASSETS / 'mini/llm'}")
        yield save_checkpoint(folder / "checkpoint", mini_audio_embedder("mini_whisper"), config)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Programs may choose the number of threads of this process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(rows: Any) -> None:
    assert rows
    for row in rows:
        assert set(row) - LOAD == KEYS
        assert row["ours"] > 0 and (row["baseline"] is None) == (row["ratio"] is None)
        for key, ends in row["range"].items():
            assert (ends is None) == (row[key] is None)
            assert ends is None or ends[0] <= row[key] <= ends[1]


def run_here(name: str, arguments: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows of a program that runs in this process."""
    file = out / f"{name}.json"
    program = importlib.import_module(f"scripts.perf.{name}")
    monkeypatch.setattr(sys, "argv", [program.__file__, *arguments.split(), "--json", str(file)])
    assert not program.main()
    return json.loads(file.read_text())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_rows_have_one_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (LIGHT | HEAVY)[name]
    rows = run_here(name, arguments.format(tmp=tmp_path), tmp_path, monkeypatch)
    check(rows)
    assert rows[0]["command"].startswith(f"python scripts/perf/{name}.py --rounds")
    assert str(tmp_path) not in json.dumps(rows)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_VLLM)
def test_rows_of_programs_with_an_engine(name: str, checkpoint: Path, tmp_path: Path) -> None:
    """Answers of the server may differ from those offline where random weights make two tokens equally likely."""
    file = tmp_path / f"{name}.json"
    arguments = WITH_VLLM[name].format(checkpoint=checkpoint).split()
    command = [sys.executable, str(REPO_ROOT / f"scripts/perf/{name}.py"), *arguments, "--json", str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode in ((0, 1) if name == "serve" else (0,)), done.stderr[-3000:]
    check(json.loads(file.read_text()))


@pytest.mark.vllm
@pytest.mark.slow
def test_running_servers_are_compared_by_the_client_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(ensembles={"m": FakeEnsemble(loudest=2.0)}) as (address, _):
        options = f"--rounds 1 --requests 2 --clients 2 --seconds 0.1 0.2 --servers one={address} two={address}"
        rows = run_here("serve", options, tmp_path, monkeypatch)
    check(rows)
    assert [(row["name"], row["unit"]) for row in rows[3:]] == [
        ("two", "requests/s"),
        ("two", "tokens/s"),
        ("two, first token", "ms"),
    ]


def test_servers_are_given_with_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected NAME=URL"):
        run_here("serve", "--requests 1 --servers http://127.0.0.1:9", tmp_path, monkeypatch)


@pytest.mark.slow
def test_precision_compares_every_choice(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_here("precision", f"{checkpoint} --rows 1", tmp_path, monkeypatch)
    check(rows)
    assert len([row for row in rows if row["name"].endswith("loss")]) > 3


def test_every_performance_program_is_started() -> None:
    programs = {path.stem for path in (REPO_ROOT / "scripts/perf").glob("[!_]*.py")}
    assert programs == LIGHT.keys() | HEAVY.keys() | WITH_VLLM.keys() | {"precision", "gpu", "report"}
    named = (REPO_ROOT / "README.md").read_text(encoding="utf-8").partition("scripts/perf/{")[2].partition("}")[0]
    assert set(named.split(",")) == programs - {"report", "gpu"}
    everything = (REPO_ROOT / "scripts/perf/all.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"^ *measure (\w+)", everything, re.MULTILINE)) == programs - {"report"}


def test_ways_alternate_and_ratios_are_those_of_each_round() -> None:
    order: list[str] = []
    found = _bench.alternate({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 3)
    assert "".join(order) == "baabba" and found == {"a": [2, 3, 6], "b": [1, 4, 5]}
    row = _bench.BenchRow("x", "s", [1.0, 4.0, 2.0], [2.0, 2.0, 6.0], "cpu").as_dict()
    assert (row["ours"], row["baseline"], row["ratio"]) == (2.0, 2.0, 2.0)
    assert row["range"] == {"ours": [1.0, 4.0], "baseline": [2.0, 6.0], "ratio": [0.5, 3.0]}
    assert _bench.BenchRow("x", "rows/s", [8.0], [2.0], "cpu").ratios == [4.0]
    assert _bench.BenchRow("x", "rows/s", [8.0], None, "cpu").as_dict()["range"]["ratio"] is None


def test_other_work_is_noticed() -> None:
    assert _bench.warning(None) is None
    assert _bench.warning({"other_cores": 0.02, "steal": 0.0}) is None
    assert "0.90 cores" in (_bench.warning({"other_cores": 0.9, "steal": 0.0}) or "")
    assert "5.0 % of the time" in (_bench.warning({"other_cores": 0.0, "steal": 0.05}) or "")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not count the work of its cores")
def test_own_work_does_not_count_as_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, own = iter([(100.0, 1.0), (106.0, 1.5)]), iter([10.0, 14.0])
    monkeypatch.setattr(_bench, "_machine_seconds", lambda: next(machine))
    monkeypatch.setattr(_bench, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(_bench.time, "monotonic", iter([0.0, 4.0]).__next__)
    monkeypatch.setattr(_bench.os, "cpu_count", lambda: 2)
    assert _bench.OtherWork().read() == {"other_cores": 0.5, "steal": 0.0625}


def needed(*names: str) -> set[str]:
    """Top-level files of the distributions, and of all that they require without extras."""
    found: dict[str, set[str]] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        requirements = map(Requirement, distribution.requires or ())
        waiting += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    return set().union(*found.values())


@pytest.mark.slow
def test_gpu_program_needs_torch_torchaudio_and_transformers_alone(tmp_path: Path) -> None:
    installed = Path(np.__file__).parents[1]
    (tmp_path / "only").mkdir()
    for name in needed("torch", "torchaudio", "transformers") - {"__pycache__"}:
        (tmp_path / "only" / name).symlink_to(installed / name)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env/bin/python"
    env = {
        "PYTHONPATH": str(tmp_path / "only"),
        "OMP_NUM_THREADS": "1",
        "PYTHON": str(python),
        "PATH": os.environ["PATH"],
    }
    absent = "import importlib.util as util; print([name for name in {names} if util.find_spec(name)])"
    names = ["datasets", "hydra", "omegaconf", "vllm", "torchcodec", "accelerate", "soundfile"]
    done = subprocess.run([str(python), "-c", absent.format(names=names)], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    command = [str(REPO_ROOT / "scripts/perf/gpu.sh"), *GPU.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr[-3000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())
    check(rows)
    table = (tmp_path / "gpu.md").read_text()
    for part in ("straightforward", "all together", "recomputed", "sslam", "features, all four", "longest clip"):
        assert any(part in row["name"] for row in rows) and part in table


def test_tables_of_the_document_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.perf import report

    about = {"other_cores": 0.9, "steal": 0.0}
    monkeypatch.setattr(sys, "argv", ["scripts/perf/x.py", "--root", "/a/b", "--rounds", "2", "--json=/c/d"])
    _bench.write_rows(tmp_path / "x.json", [_bench.BenchRow("one", "s", [1.0, 3.0], [4.0, 4.0], "cpu")], about, 90.0)
    monkeypatch.setattr(sys, "argv", ["scripts/perf/y.py"])
    _bench.write_rows(tmp_path / "y.json", [_bench.BenchRow("two", "rows/s", [5.0], None, "cpu")], None, 30.0)
    document = tmp_path / "page.md"
    document.write_text(
        "a\n<!-- perf:machine -->\n<!-- /perf:machine -->\n<!-- perf:x -->\nold\n<!-- /perf:x -->\nb\n"
    )
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--docs", str(document)])
        report.main()
        lines = document.read_text().splitlines()
        assert lines[0] == "a" and lines[-1] == "b" and "old" not in lines
        assert lines.count("| one | s | 2 (1 to 3) | 4 | 2.67 (1.33 to 4) |") == 1
        assert "`python scripts/perf/x.py --rounds 2`: cpu; median (range) of 2 rounds." in lines
        assert any("other processes used 0.90 cores" in line.lower() for line in lines)
        assert "cores" in lines[2] and "2 minutes for 2 programs" in lines[2]
    written = json.loads((tmp_path / "performance.json").read_text())
    assert list(written["programs"]) == ["x", "y"] and written["cores"] == os.cpu_count()
    assert "| two | rows/s | 5 | - | - |" in (tmp_path / "performance.md").read_text()
    (tmp_path / "z.json").write_text("{}")
    with pytest.raises(UserError, match="z.json"):
        report.main()


def test_every_table_has_its_place_in_the_document() -> None:
    text = (REPO_ROOT / "docs/performance.md").read_text(encoding="utf-8")
    for name in {"machine", "gpu", *LIGHT, *HEAVY, *WITH_VLLM}:
        assert text.count(f"<!-- perf:{name} -->") == text.count(f"<!-- /perf:{name} -->") == 1, name
