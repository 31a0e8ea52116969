"""Publish a corpus in the released form: split rows with prompts, answers and ids, and a data set card.

Out: Parquet files and README.md in --folder, then a Hub data set, private unless --public. Both go on where a stopped
run ended. Two forms:

OWNER/NAME NAME…              without audio unless --with-audio; splits train and validation, or with --unfiltered
                              raw_train and raw_validation
--username U --repo-name R    as published: U/R, all four splits, with audio unless --remove-audio

Without corpora: all that have these responses.

    python scripts/alarm/upload_dataset.py OWNER/NAME esc50 clotho --folder release --lay-out-only
    python scripts/alarm/upload_dataset.py --username OWNER --repo-name NAME --remove-audio
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.common.errors import ConfigError, UserError
from src.common.paths import use_data_dir
from src.corpus.sets.commands import add_data_dir, add_plain, add_response_arguments, corpora, corpus_parser


def main() -> None:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    add_plain(parser)
    parser.add_argument("--username", metavar="OWNER", help="account or organisation on the Hub")
    parser.add_argument("--repo-name", metavar="NAME", help="data set on the Hub (default: ALARM-Corpora)")
    parser.add_argument("--folder", type=Path, default=Path("release"), help="where the files are laid out")
    parser.add_argument("--lay-out-only", action="store_true", help="send nothing")
    parser.add_argument("--with-audio", action="store_true", help="with the audio, where its licence allows it")
    parser.add_argument("--remove-audio", action="store_true", help="without the audio")
    parser.add_argument("--unfiltered", action="store_true", help="all rows, as raw_train and raw_validation")
    parser.add_argument("--public", action="store_true", help="visible to everybody")
    add_data_dir(parser)
    args = parser.parse_args()
    if args.data_dir is not None:
        use_data_dir(args.data_dir)

    from src.corpus.recipes import all_corpora, groups
    from src.corpus.sets.order import existing
    from src.corpus.sets.upload import Release, lay_out, response_folders, upload

    names, repo = list(args.names), ""
    if names and ("/" in names[0] or names[0] not in {*all_corpora(), *groups(), "all"}):
        repo = names.pop(0)
    as_published = not repo
    if repo and (args.username or args.repo_name):
        raise ConfigError(f"{repo} and --username or --repo-name both name the data set on the Hub; leave one out")
    if as_published:
        if not args.username and not args.lay_out_only:
            raise ConfigError("name the data set on the Hub: OWNER/NAME, or --username OWNER --repo-name NAME")
        repo = "/".join(part for part in (args.username, args.repo_name or "ALARM-Corpora") if part)
    if args.with_audio and args.remove_audio:
        raise ConfigError("--with-audio and --remove-audio exclude each other; leave one out")
    folders = response_folders(corpora(names, instruction=True), args)
    if not names:
        folders = {name: folder for name, folder in folders.items() if existing([folder])}
    if not folders:
        raise UserError("no collected corpus has such responses; see --llm, --max-tokens and --max-thinking-tokens")
    release = Release(
        folders,
        filtered=as_published or not args.unfiltered,
        with_audio=not args.remove_audio if as_published else args.with_audio,
        unfiltered=as_published or args.unfiltered,
    )
    lay_out(release, args.folder, repo)
    print(args.folder if args.lay_out_only else upload(args.folder, repo, not args.public))


if __name__ == "__main__":
    run_cli(main)
