"""Score the miniature language model again on the held-out text that its scores.json was made with.

In:  LLM/ (a folder of scripts/mini/train_llm.py). Out: a JSON file, {"held_out": {task: {n, exact}}}.
     It shows that a skill on text alone is what it was before the model was used.

    python scripts/mini/score_llm.py --llm assets/mini/llm --tasks opposite --out runs/quickstart/text_skill.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli


def main() -> None:
    """Parse, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", default="assets/mini/llm", help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all")
    parser.add_argument("--held-out", type=int, default=100, help="samples a task, as when it was trained")
    parser.add_argument("--seed", type=int, default=1, help="seed that it was trained with (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    from examples.miniature.world.language_model import evaluate, held_out_samples
    from src.common.errors import UserError
    from src.common.files import write_json
    from src.model.llm import load_llm
    from src.prompts import load_prompts

    samples = held_out_samples(load_prompts("mini"), args.held_out, args.seed + 1_000_000)
    tasks = args.tasks or sorted({sample.task for sample in samples})
    unknown = sorted(set(tasks) - {sample.task for sample in samples})
    if unknown:
        raise UserError(f"no task {', '.join(unknown)}; known: {', '.join(sorted({s.task for s in samples}))}")
    model, tokenizer = load_llm(args.llm)
    scores = evaluate(model, tokenizer, [sample for sample in samples if sample.task in tasks])
    write_json(args.out, {"held_out": {task: scores[task] for task in tasks}})


if __name__ == "__main__":
    run_cli(main)
