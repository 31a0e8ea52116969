"""The table of commands: names fit together, folders are those that the programs write."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from examples.miniature.job.commands import Layout
from examples.miniature.job.job import _note_seconds, parallel_env, print_results
from examples.miniature.job.main_job import ABLATION_SEEDS, SIZES, build_job
from examples.miniature.job.stage import Stage, StageRecord, check_stages
from src.common.config import compose
from src.common.errors import UserError
from src.common.paths import REPO_ROOT
from src.generation.config import read_run_config


def jobs() -> list[tuple[str, bool]]:
    return [("default", False), ("small", False), ("default", True)]


def stages_of(size: str, full: bool) -> tuple[Stage, ...]:
    return build_job(Layout.of(Path("runs/x"), size, full), SIZES[size], full).stages


def distinct_stages(size: str, full: bool) -> list[Stage]:
    """The stages without those that differ from others in their seed alone, or that another size has too."""
    chosen = [stage for stage in stages_of(size, full) if "seed2" not in stage.shown and "seed3" not in stage.shown]
    return [stage for stage in chosen if not full or "seed1" in stage.shown]


@pytest.mark.parametrize(("size", "full"), jobs())
def test_stages_fit_together_and_name_programs_that_exist(size: str, full: bool) -> None:
    stages = stages_of(size, full)
    check_stages(stages)
    for stage in stages:
        program = next(word for word in stage.command if word.endswith(".py"))
        assert (REPO_ROOT / program).is_file(), program
        assert shlex.split(shlex.join(stage.command)) == list(stage.command)
    outputs = [output for stage in stages for output in stage.outputs]
    assert len(outputs) == len(set(outputs)), "no two stages write the same place"


@pytest.mark.parametrize(("size", "full"), jobs())
def test_answers_are_expected_where_the_programs_put_them(size: str, full: bool) -> None:
    for stage in distinct_stages(size, full):
        program = next(word for word in stage.command if word.endswith(".py"))
        if program.startswith("generate_vllm"):
            config = compose("generate", list(stage.command[2:]))
            bound = read_run_config(config)
            assert stage.outputs[0].name == bound.output_name()
            assert bound.greedy


@pytest.mark.parametrize(("size", "full"), jobs())
def test_training_options_are_known(size: str, full: bool) -> None:
    from src.training.config import bind_train_config

    for stage in distinct_stages(size, full):
        if "train.py" in stage.command:
            config = compose("train", list(stage.command[stage.command.index("train.py") + 1 :]))
            assert Path(bind_train_config(config).training_args["output_dir"]) == stage.outputs[0]


def test_the_report_reads_what_the_stages_make() -> None:
    job = build_job(Layout.of(Path("runs/x"), "default", False), SIZES["default"], False)
    made = {str(output) for stage in job.stages for output in stage.outputs}
    manifest = job.manifest
    read = [manifest.choice_set, manifest.open_set, *(target.path for target in manifest.targets)]
    read += [path for system in manifest.systems for path in (system.choice, system.open) if path]
    read += [training.path for training in manifest.trainings]
    assert set(read) <= made
    report = job.stages[-1]
    assert report.name == "report" and set(report.after) == {stage.name for stage in job.stages[:-1]}


def test_full_job_has_every_variant_for_every_seed() -> None:
    job = build_job(Layout.of(Path("runs/x"), "default", True), SIZES["default"], True)
    groups = {system.group for system in job.manifest.systems if system.group}
    for group in groups:
        seeds = {system.seed for system in job.manifest.systems if system.group == group}
        assert seeds == set(ABLATION_SEEDS)
    assert {"ALARM-CA", "ALARM-P", "AL-Whisper", "AL-Whisper, targets not rephrased"} <= groups
    assert all("assets/mini/llm" not in stage.shown for stage in job.stages)


def test_other_sizes_leave_the_default_places_alone() -> None:
    for stage in stages_of("small", False):
        assert all(str(output).startswith("runs/x/") for output in stage.outputs)
        assert "ALARM_DATA_ROOT=runs/x/datasets" in stage.shown


def test_stage_seconds_are_noted_with_the_report_and_the_setup(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": [], "checks": [], "stages": {"scenes": 3.0}}))
    records = {name: StageRecord(name, name, name, "k", True, 4.0) for name in ("scenes", "report")}
    _note_seconds(path, records, 60.0)
    assert json.loads(path.read_text())["stages"] == {"setup": 60.0, "scenes": 4.0, "report": 4.0}
    _note_seconds(path, records, None)
    assert json.loads(path.read_text())["stages"]["setup"] == 60.0, "a later run without set-up keeps the first time"


def test_table_shows_systems_and_checks(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    row = {
        "system": "ALARM-CA",
        "metric": "choice_accuracy/known",
        "value": 0.925,
        "low": 0.88,
        "high": 0.96,
        "n": 240,
    }
    chance = {**row, "system": "chance", "value": 0.29, "low": 0.29, "high": 0.29}
    check = {"name": "weights identical", "passed": False, "found": "differ"}
    path.write_text(json.dumps({"rows": [chance, row], "checks": [check], "stages": {"a": 90.0}}))
    console = Console(record=True, width=120, file=open(tmp_path / "out", "w", encoding="utf-8"))  # noqa: SIM115
    print_results(path, console)
    text = console.export_text()
    assert "92.5% (88–96)" in text and "weights identical" in text and "fails" in text and "1.5 min" in text
    assert text.index("ALARM-CA") < text.index("chance")
    with pytest.raises(UserError, match="run the report stage again"):
        print_results(tmp_path / "nothing.json")


def test_side_by_side_commands_do_not_pin_the_same_cores() -> None:
    assert parallel_env(1) == {}
    assert parallel_env(2)["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize(
    "script", ["scripts/mini/run_main_job.py", "scripts/mini/make_report.py", "scripts/mini/score_llm.py"]
)
def test_help_needs_nothing_heavy(script: str, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit([m for m in ('torch', 'vllm', 'transformers', 'datasets', 'numpy') if m in sys.modules] or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPO_ROOT / script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_unknown_stage_ends_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/mini/run_main_job.py", "--only", "nothing", "--out", str(tmp_path / "job")],
        cwd=REPO_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown stage 'nothing'; known: scenes") and "Traceback" not in done.stderr
