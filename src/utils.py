"""Names that notebooks written for the published system import from ``src.utils``."""

from __future__ import annotations

from src.common.paths import REPO_ROOT

ROOT_PATH = REPO_ROOT
"""The repository, whatever the working directory; data is stored in ``ROOT_PATH / "data"``."""
SAMPLE_RATE = 16000
"""Samples per second of speech and sound encoders."""
