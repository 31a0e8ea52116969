"""LibriMix: two or three readers at once, mixed from LibriSpeech without noise (16 kHz, as long as the longest)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("librimix", __doc__)
