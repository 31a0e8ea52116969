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
from src.common.paths import use_data_dir
from src.corpus.postprocess.commands import add_data_dir, add_plain, add_response_arguments, corpus_parser


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
        use_data_dir(args.data_dir, must_exist=True)

    from src.corpus.postprocess.upload import choose_release, lay_out, upload

    release, repo = choose_release(args)
    lay_out(release, args.folder, repo)
    print(args.folder if args.lay_out_only else upload(args.folder, repo, not args.public))


if __name__ == "__main__":
    run_cli(main)
