"""One stage of a job, and the mark it leaves when done."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.run_record import write_json


@dataclass(frozen=True)
class Stage:
    """A command as a user would type it, what it needs and what it makes.

    Args:
        name: short and unique; names the mark and the log.
        title: what happens, in words.
        command: the words of the command line.
        after: names of the stages whose results it reads.
        files: files or folders it reads besides: when their content changes, the stage runs again.
        outputs: files or folders that it makes. They are removed before a run with a changed command or changed
            inputs, so that nothing stale is taken for done; an interrupted run with the same key finds them again.
        env: variables set for this command alone.
        threads: processor cores it keeps busy.
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
        """The command line, with its variables in front, ready to paste into a shell."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in (self.env or {}).items()]
        return " ".join([*variables, shlex.join(self.command)])


@dataclass(frozen=True)
class Mark:
    """What is kept of a stage: its key, whether it is done, seconds of the run that did it, when, and how.

    ``identity`` differs from run to run: stages that read this one's results run again after it has.
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


class Marks:
    """The marks of a job, one JSON file a stage in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Mark | None:
        """The mark of a stage; None if it never started or its file cannot be used."""
        try:
            return Mark(**json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, mark: Mark) -> None:
        """Save a mark, whole or not at all."""
        write_json(self.folder / f"{mark.name}.json", asdict(mark))


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise :class:`UserError` for repeated names or a stage placed before one that it needs."""
    seen: set[str] = set()
    for stage in stages:
        if stage.name in seen:
            raise UserError(f"two stages are named {stage.name!r}; names must differ")
        missing = [name for name in stage.after if name not in seen]
        if missing:
            raise UserError(f"stage {stage.name!r} needs {', '.join(missing)}, which must stand before it")
        seen.add(stage.name)


def stage_key(stage: Stage, inputs: Mapping[str, str], cwd: Path) -> str:
    """Key of a stage's work: its command, variables, the content of its files, the identities of its inputs."""
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
