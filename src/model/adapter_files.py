"""Adapters of single encoders as the start of a training: ``.pth`` files and checkpoints.

``ENCODER.pth`` is what the published ``get_pretrained_adapters.py`` writes: ``torch.save`` of the state dict of one
adapter, its names without prefix. It is read without running code from the file. Adapters are taken out of
checkpoints of any form as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from src.common.errors import ConfigError, UserError, error_text
from src.common.paths import REPO_ROOT
from src.model.audio_embedder import AudioEmbedder
from src.model.checkpoints import Checkpoint, adapter_prefix, load_checked, may_be_checkpoint, open_checkpoint

SUFFIX = ".pth"


def load_adapters(
    audio_embedder: AudioEmbedder, dirs: str | Path | Sequence[str | Path], names: Sequence[str]
) -> None:
    """Load the adapters of encoders ``names`` from other trainings.

    ``dirs`` is a ``.pth`` file or a checkpoint for each name, or one folder for all, see :func:`find_adapter`. Raises
    :class:`ConfigError` for an encoder that the model does not have, and :class:`UserError` where nothing is there or
    it is not this adapter: every tensor that does not fit is named.
    """
    unknown = [name for name in names if name not in audio_embedder.audio_adapter.adapters]
    if unknown:
        known = ", ".join(audio_embedder.audio_adapter.adapters)
        raise ConfigError(f"pretrained_adapters_names: unknown {', '.join(unknown)}; known: {known}")
    if isinstance(dirs, (str, Path)):
        dirs = [find_adapter(dirs, name) for name in names]
    if len(dirs) != len(names):
        raise ConfigError(f"pretrained_adapters_dir: got {len(dirs)} folders for {len(names)} adapter names")
    for source, name in zip(dirs, names, strict=True):
        prefix = adapter_prefix(name)
        expected = {key: value for key, value in audio_embedder.trained_state().items() if key.startswith(prefix)}
        if str(source).endswith(SUFFIX):
            given = {prefix + key: value for key, value in read_adapter(Path(source), name).items()}
        else:
            given = open_checkpoint(source).state(prefix)
        load_checked(audio_embedder, given, expected, f"{source} (adapter {name})")


def find_adapter(directory: str | Path, name: str) -> str | Path:
    """Where the adapter of encoder ``name`` is: ``NAME.pth`` or ``NAME`` in ``directory``, else ``directory`` itself.

    A relative folder is looked for in the working directory, then in the repository. Raises :class:`ConfigError`
    when the folder exists and is neither a checkpoint nor contains the adapter.
    """
    folder = next((base for base in (Path(directory).expanduser(), REPO_ROOT / directory) if base.is_dir()), None)
    if folder is None and may_be_checkpoint(directory):
        return directory  # an id of the Hub
    if folder is None:
        raise ConfigError(f"pretrained_adapters_dir: no folder {directory}, here or in the repository")
    for path in (folder / f"{name}{SUFFIX}", folder / name):
        if path.exists():
            return path
    if any(folder.glob("*.safetensors")) or any(folder.glob("checkpoint-*")):
        return folder
    found = sorted(path.name for path in folder.iterdir() if path.suffix == SUFFIX or path.is_dir())
    raise ConfigError(
        f"pretrained_adapters_dir: {directory} has no {name}{SUFFIX} and no folder {name}; it contains "
        f"{', '.join(found[:8]) or 'nothing'}: give the encoders in pretrained_adapters_names"
    )


def read_adapter(path: Path, encoder: str) -> dict[str, Tensor]:
    """The state dict in a ``.pth`` file, by names without prefix; nothing but tensors is read from it.

    Raises :class:`UserError` for a file that is missing, damaged, or contains anything else.
    """
    hint = f"expected the state dict of the {encoder} adapter, as get_pretrained_adapters.py writes it"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged or foreign file leads its reader to
        reason = f"{type(error).__name__}: {error_text(error, 120)}"
        if "weights_only" in str(error):
            reason = "objects other than tensors"
        raise UserError(f"{path}: cannot be read ({reason}); {hint}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: contains a {type(content).__name__}; {hint}")
    if not content or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        names = ", ".join(map(str, list(content)[:4])) or "nothing"
        raise UserError(f"{path}: contains a mapping with {names}; {hint}")
    return dict(content)


def write_adapters(runs: Mapping[str, str], save_dir: str | Path) -> dict[str, Path | None]:
    """Write ``save_dir/ENCODER.pth`` from a checkpoint for each encoder; returns the paths, None where none is there.

    ``save_dir`` is relative to the repository, checkpoints to the working directory or the repository.
    """
    paths: dict[str, Path | None] = {}
    for name, run in runs.items():
        found = next((str(base) for base in (Path(run), REPO_ROOT / run) if base.is_dir()), run)
        there = may_be_checkpoint(found)
        target = REPO_ROOT / save_dir / f"{name}{SUFFIX}"
        paths[name] = write_adapter(open_checkpoint(found), name, target) if there else None
    return paths


def write_adapter(checkpoint: Checkpoint, encoder: str, path: Path) -> Path:
    """Write one adapter of a checkpoint as a published ``.pth`` file; returns its path.

    Raises :class:`UserError` when the checkpoint does not have it.
    """
    prefix = adapter_prefix(encoder)
    state = {name.removeprefix(prefix): value for name, value in checkpoint.state(prefix).items()}
    if not state:
        others = sorted({name.split(".")[2] for name in checkpoint.trained if name.startswith("audio_adapter.")})
        raise UserError(
            f"checkpoint {checkpoint.name}: has no adapter of {encoder}; it has {', '.join(others) or 'none'}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(f".{path.name}.part")  # renamed when complete: a killed program leaves no half file
    torch.save(state, waiting)
    waiting.replace(path)
    return path
