"""Options that the commands over collected sets share, and the names of response folders they give."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.naming import ResponseName, model_short_name
from src.common.paths import raw_dir, responses_dir
from src.dataset.corpus_names import INSTRUCTION, group_of, instruction_base

_log = get_logger(__name__)
LLM = "Qwen/Qwen3-4B-Thinking-2507"


def corpus_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the names of corpora; ``doc`` is the program's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", default=[], metavar="NAME",
        help="corpora, groups, or all (default: all that are collected here)",
    )  # fmt: skip
    return parser


def add_response_arguments(parser: argparse.ArgumentParser) -> None:
    """Parts of the response folders' names, as training reads them by default."""
    parser.add_argument("--llm", "--model-name", default=LLM, help="model that answered (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="part of the folders' names")
    parser.add_argument(
        "--max-thinking-tokens", type=int, default=1536, metavar="N", help="part of the names; -1: none"
    )
    parser.add_argument(
        "--use-checker", action=argparse.BooleanOptionalAction, default=None,
        help="responses that a checker looked at (default: those of no checker, unless only others exist)",
    )  # fmt: skip


def add_plain(parser: argparse.ArgumentParser) -> None:
    """The option for responses that were not rephrased."""
    parser.add_argument("--plain", "--no-rephrase", action="store_true", help="the responses that were not rephrased")


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """The option for another data directory; :func:`use_data_dir` of it comes before everything else."""
    parser.add_argument(
        "--data-dir", metavar="DIR", help="in place of the repository's data/ (default: ALARM_DATA_ROOT, or data)"
    )


def for_each(names: Sequence[str], work: Callable[[str], Any], show: Callable[[str], None]) -> int:
    """Do ``work`` on every corpus and ``show`` what it returns as one line; the exit code, 1 if one failed.

    A corpus that fails does not stop the others.
    """
    failed = []
    for name in names:
        try:
            show(f"{name}: {json.dumps(work(name))}")
        except UserError as error:
            _log.error("%s: %s", name, error)
            failed.append(name)
    if failed:
        _log.error("failed: %s", ", ".join(failed))
    return int(bool(failed))


def response_folder(name: str, args: argparse.Namespace, rephrased: bool = True) -> str:
    """Response folder of a corpus by the arguments of :func:`add_response_arguments`."""
    llm = model_short_name(args.llm)
    if group_of(name) == INSTRUCTION:
        return ResponseName(instruction_base(name), llm, args.max_tokens).format()
    thinking = args.max_thinking_tokens if rephrased else -1
    unchecked, checked = (
        ResponseName(name, llm, args.max_tokens, rephrased, thinking, checker).format() for checker in (False, True)
    )
    if args.use_checker is None:  # the checked ones only where there are no others
        return checked if responses_dir(llm, checked).is_dir() > responses_dir(llm, unchecked).is_dir() else unchecked
    return checked if args.use_checker else unchecked


def is_unfiltered(name: str) -> bool:
    """Whether an instruction set is here but not its filtered one, which training reads; logs that it is left out."""
    base = instruction_base(name) if group_of(name) == INSTRUCTION else name
    if base == name or raw_dir(base).is_dir() or not raw_dir(name).is_dir():
        return False
    _log.warning("%s: left out, it is not filtered: scripts/alarm/filter_dataset.py %s makes %s", name, name, base)
    return True
