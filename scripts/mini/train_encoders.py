"""Pretrains the four miniature encoders as frame taggers of scenes made from the training recordings.

In:  assets/mini/sounds, src/configs/model/encoder/mini_*.yaml.
Out: assets/mini/encoders/NAME/{model.safetensors, scores.json, run.json}. About 20 minutes on one CPU core.

    OMP_NUM_THREADS=1 python scripts/mini/train_encoders.py
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from src.common.cli import run_cli  # noqa: E402

NAMES = ("whisper", "w2vbert", "sslam", "muq")


def main() -> None:
    """Parse the arguments, train, write weights and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "assets/mini/encoders", help="default: %(default)s")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES, help="which encoders")
    parser.add_argument("--steps", type=int, help="for all of them (default: each has its own number)")
    parser.add_argument("--score-clips", type=int, default=240, help="clips of each split (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()

    from dataclasses import replace

    from examples.miniature.encoder_pretraining import SETTINGS, pretrain_encoders
    from examples.miniature.world.sounds import load_sounds
    from examples.miniature.world.tagging import STRONG, score_sets, tagged_clips, task_sizes

    library = load_sounds()
    configs = {name: ROOT / f"src/configs/model/encoder/mini_{name}.yaml" for name in args.names}
    settings = {name: replace(SETTINGS[name], steps=args.steps or SETTINGS[name].steps) for name in args.names}
    clips = tagged_clips(library, "train", args.seed, STRONG, full=True)
    sets = score_sets(library, args.score_clips, args.seed)
    pretrain_encoders(configs, task_sizes(library), clips, sets, settings, args.seed, args.output)


if __name__ == "__main__":
    run_cli(main)
