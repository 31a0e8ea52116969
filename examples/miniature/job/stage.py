"""A stage of a job, and its record on disk."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.files import write_json


@dataclass(frozen=True)
class Stage:
    """A command as a user would type it, with its inputs and outputs.

    Args:
        name: short and unique; also the name of the record and the log.
        title: for people.
        command: the words of the command line.
        after: names of the stages whose results it reads.
        files: other files or folders it reads: when their content changes, the stage runs again.
        outputs: files or folders that it writes. They are deleted before a run with a changed command or changed
            inputs; an interrupted run with the same key continues them.
        env: environment variables of this command.
        threads: processor cores it uses.
    """

    name: str
    title: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    env: Mapping[str, str] | None = None
    threads: int = 1

    @property
    def shown(self) -> str:
        """The command line with its environment variables, for a shell."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in (self.env or {}).items()]
        return " ".join([*variables, shlex.join(self.command)])


@dataclass(frozen=True)
class StageRecord:
    """State of a stage: its key, whether it is done, and the time of the run that completed it.

    ``identity`` differs for every run, so stages that read this one's results run again after it.
    """

    name: str
    title: str
    command: str
    key: str
    done: bool = False
    seconds: float | None = None
    finished_at: str | None = None
    log: str | None = None
    place: int = 0

    @property
    def identity(self) -> str:
        """Changes whenever the stage has run again."""
        return hashlib.sha256(f"{self.key} {self.finished_at}".encode()).hexdigest()


class StageRecords:
    """The records of a job, one JSON file per stage in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> StageRecord | None:
        """The record of a stage; None if it never started or its file is invalid."""
        try:
            return StageRecord(**json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: StageRecord) -> None:
        """Save a record atomically."""
        write_json(self.folder / f"{record.name}.json", asdict(record))


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise :class:`UserError` for repeated names or a stage placed before one that it needs."""
    seen: set[str] = set()
    for stage in stages:
        if stage.name in seen:
            raise UserError(f"two stages are named {stage.name!r}; names must differ")
        missing = [name for name in stage.after if name not in seen]
        if missing:
            raise UserError(f"stage {stage.name!r} needs {', '.join(missing)}, which must come before it")
        seen.add(stage.name)


def stage_key(stage: Stage, inputs: Mapping[str, str], cwd: Path) -> str:
    """Fingerprint of a stage's command, environment, file contents and inputs."""
    parts: dict[str, Any] = {
        "command": list(stage.command),
        "env": dict(stage.env or {}),
        "inputs": {name: inputs[name] for name in stage.after},
        "files": {str(path): content_digest(cwd / path) for path in stage.files},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder's file names and contents; None if there is nothing."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file() and "__pycache__" not in item.parts):
        digest.update(f"{file.relative_to(path)} {content_digest(file)}\n".encode())
    return digest.hexdigest()
