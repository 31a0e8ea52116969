"""Convert a checkpoint to another form.

Forms: ours (the trained part and a configuration), published (the whole model), and transformers (the whole model
with configuration and processor for the Auto classes, see docs/transformers.md).

In:  a checkpoint of any form, a folder or an id of the Hub; --to transformers takes several, an ensemble for vLLM.
Out: OUT in the form that --to asks for.

    python scripts/convert_checkpoint.py saved/mini_alarm_ca saved/mini_alarm_ca_whole --to published
    python scripts/convert_checkpoint.py saved/mini_alarm_ca_whole saved/mini_alarm_ca_again --to alarm
    python scripts/convert_checkpoint.py saved/mini_alarm_ca saved/mini_alarm_ca_hf --to transformers
    python scripts/convert_checkpoint.py saved/mini_alarm_ca saved/mini_alarm_p saved/mini_both --to transformers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or Hub id")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--to", choices=("alarm", "published", "transformers"), required=True, dest="form")
    parser.add_argument("--shard-gb", type=float, default=5.0, help="largest file of a whole model (default: 5)")
    parser.add_argument(
        "--remote-code-stub",
        action="store_true",
        help="with --to transformers: also a file that loads the classes from this package, for users who pass "
        "trust_remote_code=True themselves",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of our form (default: as stored)")
    args = parser.parse_args()

    if args.remote_code_stub and args.form != "transformers":
        parser.error("--remote-code-stub goes with --to transformers")

    import torch

    from src.model.checkpoints import open_checkpoint
    from src.model.export import export_published, import_published

    if len(args.checkpoints) > 1 and args.form != "transformers":
        parser.error(f"--to {args.form} takes one checkpoint, got {len(args.checkpoints)}")
    found = [open_checkpoint(name) for name in args.checkpoints]
    checkpoint = found[0]
    if args.form == "published":
        print(export_published(checkpoint, args.out, int(args.shard_gb * 1e9)))
    elif args.form == "transformers":
        from src.hf.export import export_transformers

        print(export_transformers(found, args.out, int(args.shard_gb * 1e9), args.remote_code_stub))
    else:
        print(import_published(checkpoint, args.out, args.dtype and getattr(torch, args.dtype)))


if __name__ == "__main__":
    run_cli(main)
