"""Ask one question about one audio file; thoughts (dim) and answer are printed as they are written.

python ask.py FILE "What do you hear?" [checkpoint_name=FOLDER_OR_HUB_ID] [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys

from src.common.cli import run_cli
from src.common.config import CONFIG_DIR, compose

DIM, PLAIN = "\033[2m", "\033[0m"


def main() -> int:
    """Parse, ask, print."""
    keys = (CONFIG_DIR / "ask.yaml").read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=keys, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="audio file (anything FFmpeg reads) or URL")
    parser.add_argument("question", help="what you want to know, or have done")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="keys of src/configs/ask.yaml")
    given = parser.parse_args()
    config = compose("ask", given.overrides)

    from src.generation.ask import ask

    colours = {"thoughts": DIM, "answer": PLAIN} if sys.stdout.isatty() else {"thoughts": "", "answer": ""}
    last = None
    for part, text in ask(given.file, given.question, config):
        if part != last:
            print("\n\n" if last else "", end=colours[part])
        print(text, end="", flush=True)
        last = part
    print(PLAIN if sys.stdout.isatty() else "")
    return 0


if __name__ == "__main__":
    run_cli(main)
