"""HeySQuAD: questions about a paragraph, spoken by people. An instruction set: the question is in the audio."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("heysquad_human", __doc__)
