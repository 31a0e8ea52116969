"""Publish a corpus in the released form: split rows with prompts, answers and ids, and a data set card.

Out: Parquet files and README.md in --folder, then the Hub data set OWNER/NAME, private unless --public. Both go on
where a stopped run ended.

    python scripts/alarm/upload_dataset.py OWNER/NAME esc50 clotho --folder release --lay-out-only
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.sets.commands import add_response_arguments, corpora, corpus_parser


def main() -> None:
    parser = corpus_parser(__doc__, ("repo", "data set on the Hub, OWNER/NAME"))
    add_response_arguments(parser)
    parser.add_argument("--folder", type=Path, default=Path("release"), help="where the files are laid out")
    parser.add_argument("--lay-out-only", action="store_true", help="send nothing")
    parser.add_argument("--with-audio", action="store_true", help="with the audio, where its licence allows it")
    parser.add_argument("--unfiltered", action="store_true", help="all rows, as raw_train and raw_validation")
    parser.add_argument("--plain", action="store_true", help="the responses that were not rephrased")
    parser.add_argument("--public", action="store_true", help="visible to everybody")
    args = parser.parse_args()

    from src.corpus.sets.upload import Release, lay_out, response_folders, upload

    names = corpora(args.names, instruction=True)
    folders = response_folders(names, args)
    lay_out(Release(folders, not args.unfiltered, args.with_audio), args.folder, args.repo)
    print(args.folder if args.lay_out_only else upload(args.folder, args.repo, not args.public))


if __name__ == "__main__":
    run_cli(main)
