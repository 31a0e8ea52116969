"""Run a job to its end: manifest, stages, results, and the table on the terminal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import REPO_ROOT
from src.common.run_record import write_json
from src.quickstart.commands import Layout
from src.quickstart.main_job import Job
from src.quickstart.runner import Runner
from src.quickstart.stage import Mark
from src.report.manifest import write_manifest

logger = get_logger(__name__)


def default_cores() -> int:
    """Stages to run side by side: one where a GPU is shared by all of them, else one a core, at most four."""
    try:
        gpu = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        gpu = False
    return 1 if gpu else min(4, len(os.sched_getaffinity(0)))


def run_job(
    job: Job,
    layout: Layout,
    cores: int,
    only: str | None = None,
    force: bool = False,
    setup_seconds: float | None = None,
) -> Path:
    """Bring the job to its end, or run the stage ``only``; returns the path of the report.

    ``setup_seconds`` of an installation before are noted in ``results.json``. Raises
    :class:`~src.common.errors.UserError` when a stage fails.
    """
    runner = Runner(layout.out, REPO_ROOT, cores, side_by_side_env(cores))
    write_manifest(REPO_ROOT / layout.out / "manifest.json", job.manifest)
    report = REPO_ROOT / layout.out / "report.html"
    if only is not None:
        runner.run_one(job.stages, only, force)
        return report
    marks = runner.run(job.stages, force)
    _note_seconds(report.with_name("results.json"), marks, setup_seconds)
    return report


def side_by_side_env(cores: int) -> dict[str, str]:
    """Variables that keep commands which run at the same time out of each other's way."""
    if cores == 1:
        return {}
    # glibc gives large tensors back to the system at once: a quarter of a training step then goes into page faults
    memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_TOP_PAD_": str(2**28)}
    # vLLM otherwise pins its threads to the first cores, in every process to the same ones
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TOKENIZERS_PARALLELISM": "false"}
    return memory | threads


def _note_seconds(path: Path, marks: Mapping[str, Mark], setup_seconds: float | None) -> None:
    """Put the seconds of every stage, the report's own too, into ``results.json``."""
    results = read_results(path)
    seconds: dict[str, float | None] = {name: mark.seconds for name, mark in marks.items()}
    kept = setup_seconds if setup_seconds is not None else results["stages"].get("setup")
    results["stages"] = seconds if kept is None else {"setup": kept, **seconds}
    write_json(path, results)


def read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a job. Raises :class:`UserError` if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; run the report stage again (--only report --force)") from error


def print_results(path: Path, console: Any = None) -> None:
    """Show the headline of ``results.json`` as tables: accuracies by system, checks, time."""
    from rich.console import Console

    results = read_results(path)
    console = console or Console()
    console.print(_accuracy_table(results["rows"]))
    console.print(_check_table(results["checks"]))
    total = sum(seconds or 0 for seconds in results["stages"].values())
    console.print(f"work in all stages: {total / 60:.1f} min")


def _accuracy_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    metrics = [
        metric
        for name in ("choice_accuracy", "open_accuracy")
        for metric in dict.fromkeys(row["metric"] for row in rows if row["metric"].count("/") == 1)
        if metric.startswith(name + "/")
    ]
    found = {(row["system"], row["metric"]): row for row in rows}
    table = Table(title="Share of right answers, 95 % interval")
    table.add_column("system")
    for metric in metrics:
        kind, split = metric.split("/")
        table.add_column(f"{'choice' if kind.startswith('choice') else 'open'}, {split}", justify="right")
    systems = dict.fromkeys(row["system"] for row in rows if row["metric"] in metrics)
    for system in [*(name for name in systems if name != "chance"), "chance"]:
        table.add_row(system, *(_cell(found.get((system, metric))) for metric in metrics))
    return table


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    value = f"{row['value']:6.1%}"
    return value if row["low"] == row["high"] else f"{value} ({row['low'] * 100:.0f}–{row['high'] * 100:.0f})"


def _check_table(checks: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    words = {True: "[green]holds[/]", False: "[red]fails[/]", None: "not measured"}
    for check in checks:
        table.add_row(words[check["passed"]], check["name"], check["found"])
    return table
