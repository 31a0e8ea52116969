"""Publish a checkpoint on the Hugging Face Hub, with a model card: parts, data, training, scores, licence.

In:  a checkpoint folder; scores from a results.json of the report or of the benchmarks.
Out: the repository OWNER/NAME, private unless --public; with --folder nothing is sent, the files are laid out there.

    python upload_model.py saved/mini_alarm_ca OWNER/NAME --scores runs/quickstart/results.json --system ALARM-CA
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.common.cli import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint folder")
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository on the Hub")
    parser.add_argument("--scores", type=Path, help="results.json")
    parser.add_argument("--system", help="only this system's scores")
    parser.add_argument("--licence", default="mit", help="of the trained part, as the Hub names it (default: mit)")
    parser.add_argument("--published-form", action="store_true", help="the whole model, LLM and encoders included")
    parser.add_argument("--public", action="store_true", help="visible to everybody")
    parser.add_argument("--folder", type=Path, help="lay the files out here and send nothing")
    args = parser.parse_args()

    from src.model.card import read_scores, stage_upload, upload
    from src.model.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(args.checkpoint)
    scores = read_scores(args.scores, args.system) if args.scores else []
    if args.folder:
        print(stage_upload(checkpoint, args.folder, args.repo, args.licence, scores, args.published_form))
        return
    private = not args.public
    print(upload(checkpoint, args.repo, args.licence, scores, args.published_form, private).commit_url)


if __name__ == "__main__":
    run_cli(main)
