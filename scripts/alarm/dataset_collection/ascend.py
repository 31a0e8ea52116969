"""ASCEND: Mandarin and English spontaneous speech that switches between both."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("ascend", __doc__)
