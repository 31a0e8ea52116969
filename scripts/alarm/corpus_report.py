"""One offline HTML page over corpora: their content, how varied the prompts are, what rephrasing changed.

In:  collected sets, prompts and response sets below data/datasets; the page names what is still missing.
Out: rows and hours by split, lengths, variety of the prompts, statuses, phrases that reveal a text source (before and
     after rephrasing), and samples to listen to; with --json the numbers.

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

    from src.common.files import write_json
    from src.corpus.analysis.analyze import AnalysisSettings, analyze_corpora, without_audio
    from src.report.corpus_page import write_corpus_page

    found = analyze_corpora(
        args.names, AnalysisSettings(tuple(args.responses), args.limit_rows, args.samples, args.seed)
    )
    write_corpus_page(found, args.out, args.audio_mb)
    if args.json:
        write_json(args.json, without_audio(found))
    print(args.out)


if __name__ == "__main__":
    run_cli(main)
