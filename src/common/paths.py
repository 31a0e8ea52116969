"""Where data is stored on disk: the published folder layout below one root.

The root is ``data/datasets`` of the repository, whatever the working directory. The environment variable
``ALARM_DATA_ROOT`` names another root, and so does :func:`use_data_dir` (``--data-dir``, ``alternative_data_dir``).
"""

from __future__ import annotations

import os
from pathlib import Path

from src.common.errors import ConfigError

REPO_ROOT = Path(__file__).resolve().parents[2]
ASSETS = REPO_ROOT / "assets"
_VARIABLE = "ALARM_DATA_ROOT"


def data_root() -> Path:
    """Root of all data sets: ``ALARM_DATA_ROOT`` if it is set, else ``data/datasets`` of the repository."""
    named = os.environ.get(_VARIABLE)
    return _datasets_of(Path(named)) if named else REPO_ROOT / "data" / "datasets"


def use_data_dir(directory: str | Path, must_exist: bool = False) -> Path:
    """Make ``directory`` the data directory of this process and of those that it starts; returns the new root.

    ``directory`` takes the place of ``data``: the sets are stored in its folder ``datasets``. A folder that contains
    the sets itself (``raw``, ``responses``) is used as it is. A relative name is relative to the repository, as
    published; one that is only found in the working directory is taken from there. With ``must_exist``, for programs
    that only read, a missing folder is a :class:`ConfigError`.
    """
    given = Path(directory)
    folder = REPO_ROOT / given  # an absolute name stays what it is
    if not folder.exists() and given.exists():
        folder = given.absolute()
    if must_exist and not folder.is_dir():
        raise ConfigError(f"data folder {directory}: no such folder, here or in the repository")
    root = folder if _contains_sets(folder) else folder / "datasets"
    os.environ[_VARIABLE] = str(root)  # and no global of Python: workers that are spawned import this module again
    return root


def _datasets_of(root: Path) -> Path:
    """``root`` takes the place of ``data/datasets``; a ``data`` folder is accepted as well."""
    inner = root / "datasets"
    return inner if inner.is_dir() and not _contains_sets(root) else root


def _contains_sets(root: Path) -> bool:
    return (root / "raw").is_dir() or (root / "responses").is_dir()


def raw_dir(name: str) -> Path:
    """Saved ``DatasetDict`` of one corpus or benchmark."""
    return data_root() / "raw" / name


def prompts_dir(name: str) -> Path:
    """Prompts of a corpus, one row for each row of the raw set."""
    return data_root() / "raw_with_prompts" / f"{name}_with_prompts"


def responses_dir(model: str, response_name: str) -> Path:
    """Responses of one LLM (short name) to the prompts of a corpus."""
    return data_root() / "responses" / model / response_name


def indexes_dir(name: str) -> Path:
    """Unfiltered split indexes of a corpus: ``{train,validation}_indexes.npy``."""
    return data_root() / "indexes" / name


def indexes_filtered_dir(name: str) -> Path:
    """Split indexes of a corpus after the audio and duration filter."""
    return data_root() / "indexes_filtered" / name


def transcripts_dir(name: str) -> Path:
    """Transcripts of the clips of a raw set by speech recognition, row by row."""
    return data_root() / "transcripts" / name


def merged_dir(name: str) -> Path:
    """The released texts with the audio that was collected here, as one set."""
    return data_root() / name


def generated_dir(llm: str, run_name: str) -> Path:
    """Answers of one system: one folder per run below the LLM's short name."""
    return data_root() / "generated" / llm / run_name
