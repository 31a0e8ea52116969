"""Publish a checkpoint on the Hugging Face Hub, with a model card: parts, data, training, scores, licence.

In:  a checkpoint folder; scores from a results.json of the report or of the benchmarks.
Out: the repository, private unless --public; with --folder nothing is sent, the files are written there.
     With --checkpoint and --repo-name, as in the published program, the whole model is sent, LLM and encoders
     included; with CHECKPOINT OWNER/NAME the trained part, or with --published-form the whole model.

    python upload_model.py saved/mini_alarm_ca OWNER/NAME --scores runs/quickstart/results.json --system ALARM-CA
    python upload_model.py --llm LLM --checkpoint RUN/checkpoint-N --username OWNER --repo-name NAME --public
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.common.cli import run_cli
from src.common.errors import ConfigError

CHECKPOINT = "saved/Qwen3-4B-Thinking-2507/content_whisper_batch/checkpoint-34960"
REPO_NAME = "AL-Whisper-Instruct-R"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="?", metavar="CHECKPOINT", help="checkpoint folder")
    parser.add_argument("repo", nargs="?", metavar="OWNER/NAME", help="repository on the Hub")
    published = parser.add_argument_group("published form of the arguments: the whole model is sent")
    published.add_argument("--llm", help="whose tokenizer is sent too (default: the checkpoint's own LLM)")
    published.add_argument("--checkpoint", help=f"checkpoint folder (default: {CHECKPOINT})")
    published.add_argument("--username", help="owner of the repository (default: the account that is logged in)")
    published.add_argument("--repo-name", help=f"its name (default: {REPO_NAME})")
    parser.add_argument("--scores", type=Path, help="results.json")
    parser.add_argument("--system", help="only this system's scores")
    parser.add_argument("--licence", default="mit", help="of the trained part, as the Hub names it (default: mit)")
    parser.add_argument("--published-form", action="store_true", help="the whole model, LLM and encoders included")
    parser.add_argument("--public", action="store_true", help="visible to everybody")
    parser.add_argument("--folder", type=Path, help="write the files here and send nothing")
    args = parser.parse_args()

    flags = (args.llm, args.checkpoint, args.username, args.repo_name)
    if args.given and any(flags):
        raise ConfigError("give CHECKPOINT OWNER/NAME, or --checkpoint, --username and --repo-name, not both")
    if args.given and not args.repo:
        parser.error("the following arguments are required: OWNER/NAME")
    whole = args.published_form or not args.given

    from src.model.card import own_repo, read_scores, stage_upload, upload
    from src.model.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(args.given or args.checkpoint or CHECKPOINT)
    repo = args.repo or own_repo(args.username, args.repo_name or REPO_NAME, args.folder is not None)
    scores = read_scores(args.scores, args.system) if args.scores else []
    if args.folder:
        print(stage_upload(checkpoint, args.folder, repo, args.licence, scores, whole, args.llm))
        return
    print(upload(checkpoint, repo, args.licence, scores, whole, not args.public, args.llm).commit_url)


if __name__ == "__main__":
    run_cli(main)
