"""Where data lies on disk: the published folder layout below one root.

The root is ``data/datasets`` in the working directory, or the environment variable ``ALARM_DATA_ROOT``.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[2]
ASSETS = REPO_ROOT / "assets"


def data_root() -> Path:
    """Root of all data sets."""
    return Path(os.environ.get("ALARM_DATA_ROOT", "data/datasets"))


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
    """What speech recognition heard in the clips of a raw set, row by row."""
    return data_root() / "transcripts" / name


def generated_dir(llm: str, run_name: str) -> Path:
    """Answers of one system: below the LLM's short name, one folder a run."""
    return data_root() / "generated" / llm / run_name
