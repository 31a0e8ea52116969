"""Leave rows out of the split whose audio cannot be decoded or lasts a minute or more.

In:  data/datasets/indexes/NAME (scripts/alarm/create_train_val_split.py).
Out: data/datasets/indexes_filtered/NAME/{train,validation}_indexes.npy, dropped.jsonl, filter.json. A corpus that is
     filtered is skipped, whoever did it.

    python scripts/alarm/validate_and_filter_indexes.py --jobs 8
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import add_overwrite, run_cli
from src.corpus.postprocess.commands import corpus_parser, for_each
from src.dataset.corpus_names import corpora_with_sets


def main() -> int:
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--max-duration", type=float, default=60.0, metavar="S", help="seconds too many (default: 60)"
    )
    parser.add_argument(
        "--jobs",
        "--n-jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="worker processes (default: all processors; 0: none)",
    )
    add_overwrite(parser, "filter again where indexes exist")
    args = parser.parse_args()

    from src.corpus.postprocess.audio_filter import filter_by_audio

    return for_each(
        corpora_with_sets(args.names),
        lambda name: filter_by_audio(name, args.max_duration, args.jobs, args.overwrite),
        print,
    )


if __name__ == "__main__":
    run_cli(main)
