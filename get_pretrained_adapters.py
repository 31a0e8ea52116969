"""Take the adapters out of checkpoints, as a start for training a fusion on them.

In:  checkpoints of any form: folders, or ids of the Hub (Blinorot/...).
Out: OUT/ENCODER for every adapter in them, ready for pretrained_adapters_dir; the options for train.py are printed.

    python get_pretrained_adapters.py saved/mini_whisper saved/mini_muq --out saved/adapters
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.common.cli import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or Hub id")
    parser.add_argument("--out", type=Path, default=Path("saved/pretrained_adapters"))
    parser.add_argument("--encoders", nargs="+", metavar="NAME", help="only the adapters of these encoders")
    args = parser.parse_args()

    from src.model.export import export_adapters

    written = export_adapters(args.checkpoints, args.out, args.encoders)
    names = ",".join(f"{name}:{name}" for name in written)
    for name, source in written.items():
        print(f"{args.out / name}  from {source}")
    print(f"\npretrained_adapters_dir={args.out} 'pretrained_adapters_names={{{names}}}' freeze_adapters=true")


if __name__ == "__main__":
    run_cli(main)
