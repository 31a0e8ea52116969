"""Import your own audio as a raw data set: data/datasets/raw/NAME, with its training and validation rows.

SOURCE is one of
  FOLDER      clips, with .txt, .lab or .json next to each, a list of texts (transcripts.txt), a table, or no texts
  FILE.csv    or .tsv: a column with the path of the clip (relative to the file), and a column with the text
  FILE.jsonl  {"audio": …, "text": …}, {"wav": …, "txt": …} or {"audios": […], "messages": […]}; .json: a list of them
  FILE.jsonl.gz  a lhotse CutSet
  OWNER/NAME  a data set of the Hugging Face Hub; or the folder of a saved one

A row that cannot be used (missing file, two clips, wrong role, empty text, undecodable clip, duplicate) is named with
its line and left out; import_report.json in the set's folder lists all of them. Clips are stored byte by byte.

    python scripts/import_dataset.py talks.jsonl --name talks
    python scripts/import_dataset.py corpus.csv --name mine --columns audio=path,text=sentence --split-group speaker
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import add_options, add_overwrite, run_cli
from src.common.paths import use_data_dir
from src.corpus.imported.build import ABOUT, ImportSettings, import_dataset, log_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="a folder, a file, or a Hub id")
    parser.add_argument("--name", required=True, help="of the new set: data/datasets/raw/NAME")
    add_options(parser, ImportSettings, ABOUT)
    parser.add_argument("--data-dir", metavar="DIR", help="takes the place of the repository's data folder")
    add_overwrite(parser, "replace a set of this name")
    args = vars(parser.parse_args())
    source, name, folder, overwrite = (args.pop(key) for key in ("source", "name", "data_dir", "overwrite"))
    if folder:
        use_data_dir(folder)
    report = import_dataset(source, name, ImportSettings(**args), overwrite)
    log_report(name, report)
    return int(bool(report["problems"]))


if __name__ == "__main__":
    run_cli(main)
