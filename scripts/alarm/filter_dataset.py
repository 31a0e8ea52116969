"""Leave out rows whose clip does not say its text, by speech recognition: word and character error rates.

In:  data/datasets/raw/NAME with audio and a text (question, or text); without names heysquad_human.
Out: instruction sets: data/datasets/raw/NAME_filtered, and the answers to its rows, which training reads;
     audio corpora with split indexes: data/datasets/indexes_filtered/NAME. Next to them asr.jsonl, asr_filter.json.
Transcripts are kept in data/datasets/transcripts: a run that was stopped is resumed, other limits cost nothing.
A filtered set of another program is kept; then only the answers are filtered with it.

    python scripts/alarm/filter_dataset.py heysquad_human --max-wer 0.5
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.postprocess.asr_command import add_arguments, filter_command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="raw sets (default: heysquad_human)")
    parser.add_argument("--dataset-name", nargs="+", default=[], metavar="NAME", help="the same")
    add_arguments(parser)
    args = parser.parse_args()
    args.names += args.dataset_name
    return filter_command(args, print)


if __name__ == "__main__":
    run_cli(main)
