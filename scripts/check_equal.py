"""Compare other ways to a checkpoint's answers with this project's engine, question by question.

transformers: the checkpoint is exported (convert_checkpoint.py --to transformers), loaded, saved by save_pretrained
and loaded in a fresh process; its greedy tokens in float32 are compared with those of vLLM with prompt embeddings.
endpoint: serve.py serves the checkpoint, generate_vllm_mcqa.py asks it by engine=openai, undisturbed and killed
(SIGKILL at random moments) and resumed; its rows and scores are compared with a run in process.

In: a checkpoint, a multiple-choice set. Out: a report, exit code 1 if an answer differs; all files below --folder.

    python scripts/check_equal.py saved/mini_alarm_ca --dataset mini_mcqa --split known
    python scripts/check_equal.py saved/mini_whisper --dataset mini_mcqa --only endpoint --kills 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder")
    parser.add_argument("--dataset", default="mini_mcqa", help="a multiple-choice set (mini_mcqa)")
    parser.add_argument("--split", help="of the set (default: all)")
    parser.add_argument("--prompts", default="mini", help="prompt set of all runs (mini)")
    parser.add_argument("--only", choices=("transformers", "endpoint"), help="(default: both)")
    parser.add_argument("--batch", type=int, default=8, help="questions at a time for transformers (8)")
    parser.add_argument("--kills", type=int, default=5, help="of the endpoint run (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="an empty folder (default: a temporary one)")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of runs and server, e.g. model.max_tokens=128"
    )
    args = parser.parse_intermixed_args()

    from tests.support.equality_check import Subject, compare_endpoint, compare_transformers

    checkpoint = str(Path(args.checkpoint).resolve())
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        folder = (args.folder or Path(made)).resolve()
        subject = Subject(checkpoint, args.dataset, folder, args.split, args.prompts, tuple(args.overrides))
        if args.only != "endpoint":
            lines += ["transformers", *compare_transformers(subject, args.batch)]
        if args.only != "transformers":
            lines += ["endpoint", *compare_endpoint(subject, args.kills, args.seed)]
    print(*lines, sep="\n")
    return int(any(line.startswith("DIFFERENT") for line in lines))


if __name__ == "__main__":
    run_cli(main)
