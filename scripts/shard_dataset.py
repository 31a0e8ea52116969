"""Write sets as tar shards with an index, for training on corpora that do not fit on a machine's disk.

SET is a response set (a folder below data/datasets/responses/MODEL) or a raw set with texts (given answers). Shards
are in the WebDataset layout; copy the folder to an object store or a web server and train from there:

    python scripts/shard_dataset.py cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512 --out shards
    train.py dataset=shards 'dataset.shards=[s3://bucket/shards/cameo_rephrased_1536_Qwen3-4B-Thinking-2507_512]' ...

--index writes the index of tar shards that are somewhere already, made by other programs; each is read once:

    python scripts/shard_dataset.py --index 'https://host/speech-{000..099}.tar' --out shards/speech
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import add_overwrite, run_cli
from src.common.errors import ConfigError
from src.common.paths import use_data_dir


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=[], metavar="SET", help="response sets or raw sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for a folder of each set; of --index itself")
    parser.add_argument("--split", default="train", help="rows of this split (train)")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=("WithContext", "NoContext", "Text"),
        help="kinds of targets (all that there are)",
    )
    parser.add_argument("--prompt", help="user's text of rows with given answers that have none of their own")
    parser.add_argument("--shard-mb", type=float, default=256.0, help="megabytes of a shard (256)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows (0)")
    parser.add_argument("--index", nargs="+", metavar="TAR", help="paths or addresses; {000..099} stands for numbers")
    parser.add_argument("--data-dir", metavar="DIR", help="takes the place of the repository's data folder")
    add_overwrite(parser, "replace shards of other settings")
    args = parser.parse_args()
    if bool(args.sets) == bool(args.index):
        raise ConfigError("give either SETs to write or --index with the shards of another program")
    if args.data_dir:
        use_data_dir(args.data_dir, must_exist=True)

    from src.dataset.shard_writer import ShardSettings, expand_numbers, index_shards, write_shards  # torch

    if args.index:
        shards = [address for pattern in args.index for address in expand_numbers(pattern)]
        problems = index_shards(shards, args.out, args.split)
        print(
            f"{args.out}: index of {len(shards)} shards"
            + "".join(f"; {n} rows: {why}" for why, n in problems.items())
        )
        return 0
    modes = None if args.modes is None else tuple(args.modes)
    settings = ShardSettings(args.split, modes, args.shard_mb, args.seed, args.prompt)
    for name in args.sets:
        write_shards(name, args.out / name, settings, args.overwrite)
    return 0


if __name__ == "__main__":
    run_cli(main)
