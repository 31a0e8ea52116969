"""Manifest of a report: the folders of questions, answers, targets and training runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from src.common.config import bind_dataclass
from src.common.errors import UserError
from src.common.files import write_json

Role = Literal["system", "oracle", "no_audio", "wrong_audio"]


@dataclass(frozen=True)
class SystemRuns:
    """Answers of one system or control: folders of saved runs, either may be missing.

    ``group`` and ``seed`` mark the members of an ablation: runs of one group are averaged over seeds.
    """

    key: str
    title: str
    role: Role = "system"
    choice: str | None = None
    open: str | None = None
    group: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class TargetSet:
    """A folder of training targets written by the language model; ``role`` is ``plain`` or ``rephrased``."""

    title: str
    path: str
    role: Literal["plain", "rephrased"]


@dataclass(frozen=True)
class TrainingRun:
    """Folder of one training run: ``metrics.jsonl`` and ``run.json``."""

    title: str
    path: str


@dataclass(frozen=True)
class TextSkill:
    """Scores of the language model on text alone, before and after the trainings: files with ``held_out``."""

    before: str
    after: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything that :func:`.build.build_report` reads. Paths are relative to the working directory.

    ``main`` is the key of the system that the checks are about; ``stages`` the folder of the job's marks.
    """

    choice_set: str
    open_set: str
    systems: list[SystemRuns]
    main: str
    prompts: str = "mini"
    targets: list[TargetSet] = field(default_factory=list)
    trainings: list[TrainingRun] = field(default_factory=list)
    text_skill: TextSkill | None = None
    stages: str | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        keys = [system.key for system in self.systems]
        if len(set(keys)) != len(keys):
            raise ValueError("systems must have different keys")
        if self.main not in keys:
            raise ValueError(f"main is {self.main!r}, which is no system; known: {', '.join(keys)}")

    def control(self, role: Role) -> SystemRuns | None:
        """The first system with that role."""
        return next((system for system in self.systems if system.role == role), None)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises :class:`UserError` for a file that is missing or holds wrong keys."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the manifest {path}: {error.strerror}; the main job writes it beside its report"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    return bind_dataclass(Manifest, data, path.name)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON."""
    write_json(path, asdict(manifest))
