"""Runs a job: manifest, stages, results, and the table on the terminal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.miniature.job.commands import Layout
from examples.miniature.job.main_job import Job
from examples.miniature.job.runner import Runner
from examples.miniature.job.stage import StageRecord
from examples.miniature.report.manifest import write_manifest
from src.common.errors import UserError
from src.common.files import write_json
from src.common.log import get_logger
from src.common.paths import REPO_ROOT

logger = get_logger(__name__)


def default_cores() -> int:
    """Number of stages to run in parallel: one if they share a GPU, else one per core, at most four."""
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
    """Run the job, or only the stage ``only``; returns the path of the report.

    ``setup_seconds`` of an earlier installation are added to ``results.json``. Raises
    :class:`~src.common.errors.UserError` when a stage fails.
    """
    runner = Runner(layout.out, REPO_ROOT, cores, parallel_env(cores))
    write_manifest(REPO_ROOT / layout.out / "manifest.json", job.manifest)
    report = REPO_ROOT / layout.out / "report.html"
    if only is not None:
        runner.run_one(job.stages, only, force)
        return report
    records = runner.run(job.stages, force)
    _note_seconds(report.with_name("results.json"), records, setup_seconds)
    return report


def parallel_env(cores: int) -> dict[str, str]:
    """Environment variables for commands that run in parallel."""
    if cores == 1:
        return {}
    # by default glibc returns large blocks to the system at once, and a quarter of a training step is page faults
    # (https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html)
    memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11), "MALLOC_TOP_PAD_": str(2**28)}
    # by default vLLM pins its threads to the first cores, the same ones in every process
    threads = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TOKENIZERS_PARALLELISM": "false"}
    return memory | threads


def _note_seconds(path: Path, records: Mapping[str, StageRecord], setup_seconds: float | None) -> None:
    """Add the seconds of every stage, including the report, to ``results.json``."""
    results = read_results(path)
    seconds: dict[str, float | None] = {name: record.seconds for name, record in records.items()}
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
    """Print accuracies by system, checks and total time of ``results.json``."""
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
