"""Score the transcripts of a training run: word error rate and recall of content words, with 95 % intervals.

RUN is the output folder of a training on transcripts (dataset=own, targets=text). Its validation rows are answered
with their own clip, with another row's clip and without audio. Prints a Markdown table; answers and scores are stored
in RUN.

    python scripts/score_speech.py saved/small_real/transcribe
"""

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="output folder of train.py")
    parser.add_argument("--batch", type=int, default=32, help="rows answered together (default: 32)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer (default: 64)")
    parser.add_argument("--limit", type=int, help="only the first rows of each validation set")
    parser.add_argument("--data-dir", metavar="DIR", help="takes the place of the repository's data folder")
    args = parser.parse_args()
    if args.data_dir:
        from src.common.paths import use_data_dir

        use_data_dir(args.data_dir, must_exist=True)
    from src.benchmarks.transcripts import score_transcripts, table
    from src.common.files import json_lines, write_json
    from src.training.ablation import MODES, answer_validation_rows

    rows = answer_validation_rows(args.run, args.batch, args.max_tokens, args.limit)
    targets = [row["target"] for row in rows]
    scores = {label: score_transcripts(targets, [row[mode] for row in rows]) for mode, label in MODES.items()}
    (args.run / "speech_answers.jsonl").write_text(json_lines(rows), encoding="utf-8")
    write_json(args.run / "speech_scores.json", {label: dataclasses.asdict(found) for label, found in scores.items()})
    print(table(scores))
    return 0


if __name__ == "__main__":
    run_cli(main)
