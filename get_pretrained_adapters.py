"""Take the adapters out of checkpoints, as a start for training a fusion on them.

In:  checkpoints of any form: folders, or ids of the Hub (Blinorot/...).
Out: with flags SAVE_DIR/ENCODER.pth, the state dict of each adapter, as the published program writes them; what does
     not exist is skipped. With checkpoints as arguments OUT/ENCODER, a checkpoint of each adapter that is in them.
     Both are read by pretrained_adapters_dir of train.py; the options for it are printed.

    python get_pretrained_adapters.py --whisper RUN/checkpoint-N --muq RUN/checkpoint-N --save-dir saved/adapters
    python get_pretrained_adapters.py saved/mini_whisper saved/mini_muq --out saved/adapters
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.common.cli import run_cli
from src.common.errors import ConfigError

RUNS = "saved/Qwen3-4B-Thinking-2507"
PUBLISHED = {
    "whisper": f"{RUNS}/content_whisper_batch/checkpoint-34960",
    "w2vbert": f"{RUNS}/speech_w2vbert_layer/checkpoint-31376",
    "sslam": f"{RUNS}/audio_sslam_layer/checkpoint-27010",
    "muq": f"{RUNS}/music_muq/checkpoint-25522",
}
"""Checkpoints of the published runs, by encoder: the published defaults."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    published = parser.add_argument_group("published form: ENCODER.pth")
    for name, run in PUBLISHED.items():
        published.add_argument(f"--{name}", metavar="CHECKPOINT", help=f"with its {name} adapter (default: {run})")
    published.add_argument("--save-dir", help="folder of the files (default: data/pretrained_weights)")
    own = parser.add_argument_group("our form: a checkpoint of each adapter")
    own.add_argument("checkpoints", nargs="*", default=[], metavar="CHECKPOINT", help="folder or Hub id")
    own.add_argument("--out", help="folder of the checkpoints (default: saved/pretrained_adapters)")
    own.add_argument("--encoders", nargs="+", metavar="NAME", help="only the adapters of these encoders")
    args = parser.parse_args()

    given = {name: getattr(args, name) for name in PUBLISHED}
    if args.checkpoints and (args.save_dir or any(given.values())):
        raise ConfigError("give CHECKPOINT arguments (with --out), or --whisper … (with --save-dir), not both")
    if not args.checkpoints and (args.out or args.encoders):
        raise ConfigError("--out and --encoders belong to CHECKPOINT arguments; give some, or use --save-dir")
    if args.checkpoints:
        from src.model.export import export_adapters

        out = args.out or "saved/pretrained_adapters"
        written = export_adapters(args.checkpoints, out, args.encoders)
        for name, source in written.items():
            print(f"{Path(out) / name}  from {source}")
        names = f"{{{','.join(f'{name}:{name}' for name in written)}}}"
    else:
        from src.model.adapter_files import write_adapters

        out = args.save_dir or "data/pretrained_weights"
        paths = write_adapters({name: given[name] or PUBLISHED[name] for name in PUBLISHED}, out)
        for name, path in paths.items():
            print(f"{path}" if path else f"{name}: {given[name] or PUBLISHED[name]} does not exist; skipped")
        if not any(paths.values()):
            return
        names = f"[{','.join(name for name, path in paths.items() if path)}]"
    print(f"\npretrained_adapters_dir={out} 'pretrained_adapters_names={names}' freeze_adapters=true")


if __name__ == "__main__":
    run_cli(main)
