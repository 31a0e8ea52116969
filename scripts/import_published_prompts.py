"""Write the published prompt texts as a prompt set, from your own clone of the published repository.

In:  a clone of github.com/Blinorot/ALARM; its source is parsed, and never run.
Out: a YAML file for prompts=FILE (answering, serving, training) and --prompts FILE (corpora). Texts that are not
     found are named; ours stay in their place.

    git clone https://github.com/Blinorot/ALARM ../published-alarm
    python scripts/import_published_prompts.py ../published-alarm
    PROMPTS=published_prompts.yaml ./run_eval.sh mmar default_inference Blinorot/ALARM-CA
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.common.cli import run_cli
from src.common.errors import UserError
from src.prompts.published import NOT_PUBLISHED, read_published
from src.prompts.texts import load_prompts, write_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, metavar="CLONE", help="folder of the clone")
    parser.add_argument("--out", type=Path, default=Path("published_prompts.yaml"), metavar="FILE", help="the set")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    arguments = parser.parse_args()
    if arguments.out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {arguments.out}: a prompt set's file ends with .yaml")
    if arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"{arguments.out} is there already: --overwrite replaces it, --out names another file")
    found = read_published(arguments.clone)
    write_set(arguments.out, found.as_set())
    prompts = load_prompts(str(arguments.out))
    print(f"{arguments.out}: {prompts.source}, digest {prompts.digest()}")
    print(f"imported: {', '.join(found.texts)}")
    for key, reason in found.missing.items():
        print(f"not found, ours stays: {key} ({reason})")
    for note in found.notes:
        print(f"note: {note}")
    print(f"not in the published repository, ours stay: {', '.join(NOT_PUBLISHED)}")


if __name__ == "__main__":
    run_cli(main)
