"""From a manifest to ``results.json`` and ``report.html``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.miniature.report.manifest import Manifest
from examples.miniature.report.page import render_page
from examples.miniature.report.results import JobResults, gather
from examples.miniature.report.rows import job_checks, result_rows
from src.common.files import write_json
from src.common.log import get_logger
from src.common.run_record import git_state, package_versions

logger = get_logger(__name__)


@dataclass(frozen=True)
class ReportPaths:
    """Paths of the written files."""

    html: Path
    results: Path


def build_report(manifest: Manifest, html: Path) -> ReportPaths:
    """Score everything the manifest names; write the page to ``html`` and ``results.json`` beside it.

    Raises :class:`~src.common.errors.UserError` when a run is missing or does not belong to its questions.
    """
    results = gather(manifest)
    checks = job_checks(results)
    record = _record(results)
    paths = ReportPaths(html, html.with_name("results.json"))
    write_json(
        paths.results,
        {
            "rows": [asdict(row) for row in result_rows(results)],
            "checks": [asdict(check) for check in checks],
            "stages": {mark["name"]: mark["seconds"] for mark in results.marks},
            "run": record,
        },
    )
    page = render_page(results, checks, record)
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(page, encoding="utf-8")
    logger.info("%s (%.1f MB), %s", html, html.stat().st_size / 1e6, paths.results)
    return paths


def _record(results: JobResults) -> dict[str, Any]:
    trainings: Mapping[str, Any] = {
        item.run.title: {key: item.record[key] for key in ("written_at", "git", "seed") if key in item.record}
        for item in results.trainings
    }
    return {
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": package_versions(),
        "processor_cores": os.cpu_count(),
        "trainings": dict(trainings),
        "prompts": results.prompts.record(),
    }
