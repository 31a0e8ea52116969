"""Train the miniature reasoning language model (assets/mini/llm) from nothing, on text alone.

In:  nothing but the prompt texts of src/prompts/texts/mini.yaml and the words of examples/miniature/world.
Out: OUT/ with model.safetensors, tokenizer files and scores.json (recipe, held-out exact answers, curve).
Run: python scripts/mini/train_llm.py --out assets/mini/llm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli


def main() -> int:
    """Parse, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/mini/llm"))
    parser.add_argument(
        "--steps", type=int, default=None, help="one cycle of this length (default: the shipped recipe)"
    )
    parser.add_argument("--continue-at", type=int, default=0, help="take up the model in OUT at this cycle")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=100, help="held-out samples a task")
    parser.add_argument("--threads", type=int, default=None, help="processor threads (default: torch's choice)")
    args = parser.parse_args()

    from examples.miniature.world.language_model import Cycle, train_mini_llm

    cycles = None if args.steps is None else [Cycle(args.steps, 2e-3)]
    scores = train_mini_llm(args.out, args.seed, args.held_out, args.threads, cycles, args.continue_at)
    for task, score in scores.items():
        print(f"{task:20s} {score['exact']:.3f} of {score['n']:.0f}")
    return 0


if __name__ == "__main__":
    run_cli(main)
