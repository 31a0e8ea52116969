"""Checkpoints: the trained state of a front end, and a config that names the frozen parts.

A checkpoint folder holds ``model.safetensors`` (adapters, fusion, separators; published names without ``model.``) and
``alarm_config.json`` (the model configuration: LLM, encoders with source and revision, front end). A Trainer's output
folder stands for the last checkpoint in it; any other name is asked of the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.audio.features import AudioFeatureExtractor
from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError
from src.model.build import build_feature_extractor, build_front_end
from src.model.config import ModelConfig
from src.model.front_end import AudioFrontEnd

STATE_FILE = "model.safetensors"
CONFIG_FILE = "alarm_config.json"
FORMAT = 1
HUB_TIMEOUT_SECONDS = 10.0
PUBLISHED_PREFIX = "model."


@dataclass(frozen=True)
class LoadedFrontEnd:
    """A front end ready for inference, what computes its features, and the configuration it was trained with."""

    front_end: AudioFrontEnd
    feature_extractor: AudioFeatureExtractor
    config: ModelConfig
    directory: Path


def save_checkpoint(
    directory: str | Path, front_end: AudioFrontEnd, config: ModelConfig, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write the trained state and the configuration; ``extra`` is kept as given (JSON values). Returns the folder."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in front_end.trained_state().items()}
    save_file(state, folder / STATE_FILE, metadata={"format": "pt"})
    described = config.as_dict() | {"llm_embedding_dim": front_end.llm_dim}
    content = {"format": FORMAT, "model": described, "extra": dict(extra or {})}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def load_front_end(
    name: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> LoadedFrontEnd:
    """Front end of a checkpoint (folder or Hub id), in eval mode; ``dtype`` is that of the trained part.

    Raises :class:`UserError` for a missing folder or file, and for tensors that do not fit the configuration.
    """
    folder = find_checkpoint(name, revision)
    config = read_config(folder)
    assert config.llm_embedding_dim is not None
    front_end = build_front_end(config.config, config.llm_embedding_dim)
    load_state(front_end, folder)
    front_end.requires_grad_(False).eval().to(device).cast_trained(dtype)
    return LoadedFrontEnd(front_end, build_feature_extractor(config.config, device), config, folder)


def find_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a checkpoint: ``name`` itself, the last ``checkpoint-N`` in it, or a download from the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _inside(folder)
    text = str(name)
    looks_local = (
        folder.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1 or folder.parent.is_dir()
    )
    if looks_local:
        raise UserError(f"checkpoint {text!r}: no such folder; expected a checkpoint folder or a Hub id OWNER/NAME")
    return _download(text, revision)


def _inside(folder: Path) -> Path:
    if (folder / CONFIG_FILE).is_file():
        return folder
    steps = [
        (int(match.group(1)), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / CONFIG_FILE).is_file()
    ]
    if not steps:
        raise UserError(
            f"checkpoint {str(folder)!r}: no {CONFIG_FILE} in it nor in a checkpoint-N below it; "
            "expected a folder written by train.py"
        )
    return max(steps)[1]


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    reason: Exception | None = None
    try:
        # Asked once before the download, which would try for minutes when there is no connection.
        HfApi().repo_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:  # whatever the HTTP library raises: a copy from an earlier download will do
        reason = error
    try:
        path = snapshot_download(
            name, revision=revision, allow_patterns=[CONFIG_FILE, STATE_FILE], local_files_only=reason is not None
        )
    except (OSError, ValueError) as error:
        why = " ".join(str(reason or error).split())[:200]
        raise UserError(f"checkpoint {name!r}: no such folder, and the Hub did not give it ({why})") from error
    return _inside(Path(path))


def read_config(folder: Path) -> ModelConfig:
    """The model configuration of a checkpoint folder. Raises :class:`UserError` when it cannot be read or bound."""
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, model = content["format"], content["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint configuration ({error!r})") from error
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, this program reads format {FORMAT}")
    try:
        config = bind_dataclass(ModelConfig, model, "model")
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from error
    if config.llm_embedding_dim is None:
        raise UserError(f"{path}: model.llm_embedding_dim is missing")
    return config


def read_state(folder: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint folder by name below ``model.``. Raises :class:`UserError` otherwise."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise UserError(f"checkpoint {str(folder)!r}: {STATE_FILE} is missing; the checkpoint is incomplete")
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error
    return {name.removeprefix(PUBLISHED_PREFIX): value for name, value in state.items()}


def load_state(front_end: AudioFrontEnd, folder: Path) -> None:
    """Load adapters, fusion and separators. Raises :class:`UserError` naming every tensor that does not fit."""
    _load_into(front_end, read_state(folder), front_end.trained_state(), str(folder))


def load_adapters(front_end: AudioFrontEnd, dirs: str | Path | Sequence[str | Path], names: Sequence[str]) -> None:
    """Load single adapters from other checkpoints.

    Args:
        front_end: where they go.
        dirs: one checkpoint for each name, or one for all: then ``DIR/NAME`` where it exists, else ``DIR`` itself.
        names: encoder names whose adapters are loaded.
    """
    unknown = [name for name in names if name not in front_end.audio_adapter.adapters]
    if unknown:
        known = ", ".join(front_end.audio_adapter.adapters)
        raise ConfigError(f"pretrained_adapters_names: unknown {', '.join(unknown)}; known: {known}")
    if isinstance(dirs, (str, Path)):
        dirs = [Path(dirs) / name if (Path(dirs) / name).is_dir() else dirs for name in names]
    if len(dirs) != len(names):
        raise ConfigError(f"pretrained_adapters_dir: got {len(dirs)} folders for {len(names)} adapter names")
    for directory, name in zip(dirs, names, strict=True):
        folder = find_checkpoint(directory)
        prefix = f"audio_adapter.adapters.{name}."
        given = {key: value for key, value in read_state(folder).items() if key.startswith(prefix)}
        expected = {key: value for key, value in front_end.trained_state().items() if key.startswith(prefix)}
        _load_into(front_end, given, expected, f"{folder} (adapter {name})")


def _load_into(front_end: AudioFrontEnd, given: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    problems = misfits(given, expected)
    if problems:
        raise UserError(f"checkpoint {where} does not fit the model config: {'; '.join(problems)}")
    front_end.load_state_dict(given, strict=False)


def misfits(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Every way ``given`` differs from what ``expected`` asks: missing, extra, misshapen or non-finite tensors."""
    both = sorted(set(given) & set(expected))
    groups = {
        "missing": sorted(set(expected) - set(given)),
        "not expected": sorted(set(given) - set(expected)),
        "other shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in both
            if given[name].shape != expected[name].shape
        ],
        "not finite": [
            name for name in both if given[name].is_floating_point() and not bool(torch.isfinite(given[name]).all())
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names]
