"""InstructS2S-200K: spoken conversations. An instruction set: each turn of the user is a row."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from src.corpus.collect.commands import run_collector

if __name__ == "__main__":
    run_collector("instructs2s", __doc__)
