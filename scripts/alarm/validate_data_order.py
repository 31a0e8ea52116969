"""Compare raw set, prompts and responses of each corpus row by row: same keys, same descriptions, same order.

python scripts/alarm/validate_data_order.py esc50 --llm Qwen3-4B-Thinking-2507
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.sets.commands import add_response_arguments, corpora_with_sets, corpus_parser, response_folder


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    args = parser.parse_args()

    from src.corpus.recipes import instruction_base, instruction_sets
    from src.corpus.sets.order import check_order, existing

    wrong = 0
    for name in corpora_with_sets(args.names, instruction=True):
        raw = instruction_base(name) if name in instruction_sets() else name
        folders = existing([response_folder(name, args, rephrased) for rephrased in (False, True)])
        problems = check_order(raw, folders)
        wrong += len(problems)
        print("\n".join(problems) or f"{raw}: well ({', '.join(['raw set', *folders])})")
    return int(bool(wrong))


if __name__ == "__main__":
    run_cli(main)
