"""MUCS 2021: Hindi and Bengali speech that switches to English, cut from long recordings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("mucs", __doc__)
