"""Hydra's command line as its users know it, on all four programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.common.config import CONFIG_DIR
from src.common.errors import ConfigError, UserError
from src.common.hydra_cli import hydra_cli
from src.common.paths import REPO_ROOT
from src.model.published import model_config
from tests.support.tiny_corpus import make_corpus
from tests.support.tiny_llm import save_tiny_llm
from tests.training.conftest import overrides

PROGRAMS = {
    "train.py": ["model=mini_whisper", "dataset=mini"],
    "generate_vllm.py": ["dataset.name=x"],
    "generate_vllm_mcqa.py": ["dataset.name=x"],
    "serve.py": [],
}


def program(name: str, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an entry point as a user does."""
    return subprocess.run(
        [sys.executable, str(REPO_ROOT / name), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_configurations_are_shown_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    given = PROGRAMS[name]
    key = "port" if name == "serve.py" else "seed"
    job = program(name, "--cfg", "job", f"{key}=7", *given, cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    shown = yaml.safe_load(job.stdout)
    assert "hydra" not in shown and shown[key] == 7
    resolved = program(name, "--cfg", "all", "--resolve", *given, cwd=tmp_path)
    assert resolved.returncode == 0, resolved.stderr
    assert {"hydra", "model"} <= set(yaml.safe_load(resolved.stdout)) and "${" not in resolved.stdout
    info = program(name, "--info", "searchpath", *given, cwd=tmp_path)
    assert info.returncode == 0 and str(CONFIG_DIR) in info.stdout
    assert not list(tmp_path.iterdir()), "no outputs/ where it was not asked for"


def test_shell_completion_knows_the_keys(tmp_path: Path) -> None:
    line = "train.py model=mini_w"
    done = program("train.py", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    assert {"model=mini_whisper", "model=mini_w2vbert"} <= set(done.stdout.split())


def start(monkeypatch: pytest.MonkeyPatch, *words: str, name: str = "train") -> tuple[int, list[dict[str, Any]]]:
    """Exit code of a program in this process, and the configurations that its main got."""
    seen: list[dict[str, Any]] = []

    def main(config: dict[str, Any]) -> float:
        seen.append(config)
        return 0.5

    monkeypatch.setattr("sys.argv", [f"{name}.py", *words])
    with pytest.raises(SystemExit) as ended:
        hydra_cli(name, main)
    return int(ended.value.code or 0), seen


def test_a_users_folder_of_configurations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``-cd`` adds a folder, ``-cp`` replaces the shipped one, whose groups stay in reach."""
    (tmp_path / "mine.yaml").write_text(
        "defaults: [{model: mini_whisper}, {dataset: mini}, {training_args: mini}, _self_]\nseed: 3\n"
    )
    monkeypatch.chdir(tmp_path)
    for flags in (["-cd", "."], ["-cp", "."], [f"--config-path={tmp_path}"], [f"--config-dir={tmp_path}"]):
        code, seen = start(monkeypatch, *flags, "-cn", "mine", "model.new_key=1")
        assert code == 0 and seen[0]["seed"] == 3 and seen[0]["model"]["new_key"] == 1, flags
        assert "encoders" in seen[0]["model"]["config"]


def test_a_sweep_is_every_combination(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["-m", "model=mini_whisper,mini_muq", "dataset=mini", "lora.r=4,8", "prompts=mini,null"]
    words += ["model.llm=a,b", f"hydra.sweep.dir={tmp_path}"]
    code, seen = start(monkeypatch, *words)
    assert code == 0 and len(seen) == 16
    found = {
        (next(iter(config["model"]["config"]["encoders"])), config["lora"]["r"], config["model"]["llm"])
        for config in seen
    }
    assert len(found) == 8 and {(config["prompts"] or {}).get("name") for config in seen} == {"mini", None}
    assert (tmp_path / "multirun.yaml").is_file() and (tmp_path / "3" / ".hydra" / "config.yaml").is_file()


def test_the_run_folder_is_made_where_asked_by_the_first_process_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ["model=mini_whisper", "dataset=mini"]
    assert start(monkeypatch, *given, f"hydra.run.dir={tmp_path / 'a'}")[0] == 0
    assert (tmp_path / "a/.hydra/overrides.yaml").is_file()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert start(monkeypatch, *given, f"hydra.run.dir={tmp_path / 'b'}")[0] == 0
    assert not list(tmp_path.glob("b/*"))
    monkeypatch.setattr("src.common.hydra_cli._SECONDS_TO_WAIT", 0.0)
    assert start(monkeypatch, *given, "hydra.run.dir=x/${now:%S}")[0] == 2, "processes would disagree"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lorra.r=4"], "did you mean 'lora'?"),
        (["lora.rr=4"], "did you mean 'r'?"),
        (["model=alarm_cx"], "did you mean 'alarm_ca'?"),
        (["prompts=ful"], "full, letters, mini"),
        (["seed=[1"], "error: train"),
        (["-cd", "/nonexistent"], "'/nonexistent' not found"),
        (["-m", "hydra/launcher=none_such"], "none_such"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = [] if "model=alarm_cx" in words else ["model=mini_whisper"]
    code, seen = start(monkeypatch, *given, "dataset=mini", *words)
    said = capsys.readouterr().err
    assert code == 2 and not seen and said.count("\n") == 1 and message in said, said


@pytest.mark.parametrize(("error", "code"), [(UserError("lost"), 1), (ConfigError("wrong"), 2)])
def test_errors_of_a_run_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: UserError, code: int
) -> None:
    def main(config: dict[str, Any]) -> int:
        raise error

    monkeypatch.setattr("sys.argv", ["serve.py"])
    with pytest.raises(SystemExit) as ended:
        hydra_cli("serve", main)
    assert ended.value.code == code and capsys.readouterr().err == f"error: {error}\n"


def test_an_error_of_a_sweeps_job_is_none_of_its_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A ValueError of a job was reported as a mistake in the command line, with exit code 2."""
    monkeypatch.setattr(
        sys, "argv", ["train.py", "-m", "model=mini_whisper", "dataset=mini", f"hydra.sweep.dir={tmp_path}"]
    )

    def main(config: dict[str, Any]) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        hydra_cli("train", main)


def test_a_program_composes_other_configurations_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra is initialised then, and published checkpoints without their ``config.json`` were not recognised."""
    widths: list[int] = []

    def main(config: dict[str, Any]) -> None:
        widths.extend(model_config(name).llm_embedding_dim or 0 for name in ("alarm_ca", "mini_whisper"))

    monkeypatch.setattr("sys.argv", ["serve.py"])
    with pytest.raises(SystemExit) as ended:
        hydra_cli("serve", main)
    assert not ended.value.code and widths == [2560, 192]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ALARM_DATA_ROOT", str(folder / "datasets"))
        make_corpus(40, 8)
    save_tiny_llm(folder / "llm")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=1"]])  # fmt: skip
def test_a_sweep_of_two_trainings(corpus: Path, tmp_path: Path, plugin: list[str]) -> None:
    """Each job leaves a run of its own, whichever process it ran in; a sweeper gets its loss."""
    words = overrides(
        corpus, tmp_path / "run_${hydra:job.num}", "+lora=default", max_steps=2, eval_strategy="steps", eval_steps=2
    )
    choice = "lora.r=4,8" if "joblib" in plugin[0] else "lora.r=choice(4,8)"
    done = program(
        "train.py", "-m", *words, choice, *plugin, f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path, ALARM_DATA_ROOT=str(corpus / "datasets"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads((tmp_path / f"run_{number}" / "run.json").read_text()) for number in (0, 1)]
    ranks = [record["config"]["lora"]["r"] for record in records]
    losses = [record["results"]["eval_loss"] for record in records]
    if "joblib" in plugin[0]:
        assert ranks == [4, 8]
    else:
        best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
        assert best["best_value"] == pytest.approx(min(losses))
