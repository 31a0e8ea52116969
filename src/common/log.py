"""Logging: one format, to standard error, with the level of ``ALARM_LOG_LEVEL``."""

from __future__ import annotations

import logging
import os
import sys


def setup_logging() -> None:
    """Give the ``alarm`` logger one handler on standard error. Safe to call more than once."""
    logger = logging.getLogger("alarm")
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(os.environ.get("ALARM_LOG_LEVEL", "INFO").upper())
    # a library that gives the root logger a handler (absl, Hydra) would print every line a second time
    logger.propagate = False


def get_logger(name: str) -> logging.Logger:
    """Logger of one module, e.g. ``get_logger(__name__)``; ``src.model.llm`` becomes ``alarm.model.llm``."""
    return logging.getLogger("alarm." + name.removeprefix("src."))
