"""Mridangam strokes: single hits of the South Indian drum."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("mridangam", __doc__)
