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
from src.common.paths import REPO_ROOT

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
    own.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="folder or Hub id")
    own.add_argument("--out", type=Path, help="folder of the checkpoints (default: saved/pretrained_adapters)")
    own.add_argument("--encoders", nargs="+", metavar="NAME", help="only the adapters of these encoders")
    args = parser.parse_args()

    given = {name: getattr(args, name) for name in PUBLISHED}
    if not args.checkpoints:
        if args.out or args.encoders:
            raise ConfigError("--out and --encoders belong to CHECKPOINT arguments; give some, or use --save-dir")
        extract(
            {name: run or PUBLISHED[name] for name, run in given.items()}, args.save_dir or "data/pretrained_weights"
        )
        return
    if args.save_dir or any(given.values()):
        raise ConfigError("give CHECKPOINT arguments (with --out), or --whisper … (with --save-dir), not both")

    from src.model.export import export_adapters

    out = args.out or Path("saved/pretrained_adapters")
    written = export_adapters(args.checkpoints, out, args.encoders)
    names = ",".join(f"{name}:{name}" for name in written)
    for name, source in written.items():
        print(f"{out / name}  from {source}")
    print(f"\npretrained_adapters_dir={out} 'pretrained_adapters_names={{{names}}}' freeze_adapters=true")


def extract(runs: dict[str, str], save_dir: str) -> None:
    """Write ``save_dir/ENCODER.pth`` for each checkpoint that is there; the folder is relative to the repository."""
    from src.model.adapter_files import SUFFIX, write_adapter
    from src.model.checkpoints import is_there, open_checkpoint

    folder, written = REPO_ROOT / save_dir, []
    for name, run in runs.items():
        run = (
            run if is_there(run) or Path(run).is_absolute() or not is_there(REPO_ROOT / run) else str(REPO_ROOT / run)
        )
        if not is_there(run):
            print(f"{name}: {run} does not exist; skipped")
            continue
        print(f"{write_adapter(open_checkpoint(run), name, folder / (name + SUFFIX))}  from {run}")
        written.append(name)
    if written:
        names = ",".join(written)
        print(f"\npretrained_adapters_dir={save_dir} 'pretrained_adapters_names=[{names}]' freeze_adapters=true")


if __name__ == "__main__":
    run_cli(main)
