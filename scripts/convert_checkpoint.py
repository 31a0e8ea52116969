"""Convert a checkpoint: ours (the trained part and a configuration) or published form (the whole model) to either.

In:  a checkpoint of either form: a folder or an id of the Hub.
Out: OUT in the form that --to asks for.

    python scripts/convert_checkpoint.py saved/mini_alarm_ca saved/mini_alarm_ca_whole --to published
    python scripts/convert_checkpoint.py saved/mini_alarm_ca_whole saved/mini_alarm_ca_again --to alarm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--to", choices=("alarm", "published"), required=True, dest="form")
    parser.add_argument("--shard-gb", type=float, default=5.0, help="largest file of the published form (default: 5)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of our form (default: as stored)")
    args = parser.parse_args()

    import torch

    from src.model.checkpoints import open_checkpoint
    from src.model.export import export_published, import_published

    checkpoint = open_checkpoint(args.checkpoint)
    if args.form == "published":
        print(export_published(checkpoint, args.out, int(args.shard_gb * 1e9)))
    else:
        print(import_published(checkpoint, args.out, args.dtype and getattr(torch, args.dtype)))


if __name__ == "__main__":
    run_cli(main)
