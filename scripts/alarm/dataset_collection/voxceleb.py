"""VoxCeleb 1: pairs of recordings of the same or of two speakers, one after the other. The published file name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("voxceleb1", __doc__)
