"""Renders the miniature world: scenes for training, prompts, split indexes, and two test sets.

In:  assets/mini/sounds.
Out: below $ALARM_DATA_ROOT (default data/datasets): raw/{mini,mini_test,mini_mcqa},
     raw_with_prompts/mini_with_prompts, indexes/mini. Sets that are already complete are left alone.

    python scripts/mini/make_scenes.py --train-size 1600
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    """Parse the arguments and write the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-size", type=int, default=1600, help="training scenes (default: %(default)s)")
    parser.add_argument("--validation-size", type=int, default=160, help="validation scenes (default: %(default)s)")
    parser.add_argument("--test-size", type=int, default=120, help="open questions a split (default: %(default)s)")
    parser.add_argument("--choice-size", type=int, default=240, help="choices a split (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="write complete sets again")
    args = parser.parse_args()

    from datasets import disable_progress_bars

    from examples.miniature.world.build import WorldSizes, build_mini_world

    disable_progress_bars()
    sizes = WorldSizes(args.train_size, args.validation_size, args.test_size, args.choice_size)
    build_mini_world(sizes, args.seed, args.force)


if __name__ == "__main__":
    run_cli(main)
