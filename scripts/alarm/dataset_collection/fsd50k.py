"""FSD50K: sound events labelled by people, training part of the development set."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("fsd50k", __doc__)
