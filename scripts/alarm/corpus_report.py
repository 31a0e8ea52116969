"""One offline HTML page over corpora: what they hold, how varied the prompts are, what rephrasing changed.

In:  collected sets, prompts and response sets below data/datasets; what is missing yet is told on the page.
Out: rows and hours by split, lengths, prompts' variety, statuses, betraying words before and after rephrasing, and
     samples to listen to; with --json the numbers.

    python scripts/alarm/corpus_report.py esc50 clotho --out report.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="corpora, groups, all (those that are here), or sets in raw")
    add("--out", type=Path, required=True, help="the page")
    add("--json", type=Path, metavar="FILE", help="write the numbers, too")
    add("--responses", action="append", default=[], metavar="FOLDER", help="only this response set (repeatable)")
    add("--limit-rows", type=int, metavar="N", help="read the texts of N rows of each set, spread over it")
    add("--samples", type=int, default=6, metavar="K", help="samples of each corpus (6)")
    add("--seed", type=int, default=0, help="draws samples and examples (0)")
    add("--audio-mb", type=float, default=40.0, metavar="MB", help="room for clips in the page (40)")
    args = parser.parse_args()

    from src.common.run_record import write_json
    from src.corpus.survey.survey import SurveySettings, survey, without_audio
    from src.report.corpus_page import write_corpus_page

    found = survey(args.names, SurveySettings(tuple(args.responses), args.limit_rows, args.samples, args.seed))
    write_corpus_page(found, args.out, args.audio_mb)
    if args.json:
        write_json(args.json, without_audio(found))
    print(args.out)


if __name__ == "__main__":
    run_cli(main)
