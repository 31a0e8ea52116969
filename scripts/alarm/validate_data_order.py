"""Compare raw set, prompts and responses of each corpus row by row: same keys, same descriptions, same order.

python scripts/alarm/validate_data_order.py esc50 --llm Qwen3-4B-Thinking-2507
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.common.cli import run_cli
from src.corpus.postprocess.commands import add_response_arguments, corpus_parser, is_unfiltered, response_folder
from src.dataset.corpus_names import corpora_with_sets


def main() -> int:
    parser = corpus_parser(__doc__)
    add_response_arguments(parser)
    args = parser.parse_args()

    from src.corpus.postprocess.order import check_order, existing
    from src.dataset.corpus_names import instruction_base, instruction_sets

    wrong = 0
    for name in corpora_with_sets(args.names, instruction=True):
        if is_unfiltered(name):
            continue
        raw = instruction_base(name) if name in instruction_sets() else name
        folders = existing([response_folder(name, args, rephrased) for rephrased in (False, True)])
        problems = check_order(raw, folders)
        wrong += len(problems)
        print("\n".join(problems) or f"{raw}: well ({', '.join(['raw set', *folders])})")
    return int(bool(wrong))


if __name__ == "__main__":
    run_cli(main)
