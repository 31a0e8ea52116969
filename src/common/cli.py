"""How entry files end: a user's mistake becomes one line on standard error and an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from src.common.errors import UserError
from src.common.log import setup_logging
from src.common.machine import explain


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit: its return value (``None`` is 0), 1 or 2 for a ``UserError``, 130 for Ctrl-C.

    A full or read-only disk, a network without an answer and a lost device are one line too, exit code 1.
    """
    setup_logging()
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # whoever read the output has gone (`... | head`): nothing to tell, and the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        logging.getLogger(__name__).debug("the error in full", exc_info=True)
        code = 1
    sys.exit(code)


def add_options(
    parser: argparse._ActionsContainer,
    settings: type[Any],
    about: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """One option for every field of the dataclass ``settings``: ``max_tokens`` becomes ``--max-tokens``.

    ``about`` explains each field; its default is added. ``aliases`` are more names of a field's option, shown beside
    it. Fields are numbers, texts or switches, all of them optional; a ``limit`` below 1 stands for all rows.
    """
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        options = ["--" + field.name.replace("_", "-"), *(aliases or {}).get(field.name, ())]
        text = about[field.name] + ("" if field.default is None else f" (default: {field.default})")
        if hints[field.name] is bool:
            parser.add_argument(*options, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        else:
            kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
            kind = row_limit if field.name == "limit" else (kinds or [hints[field.name]])[0]
            parser.add_argument(*options, dest=field.name, type=kind, default=field.default, metavar="X", help=text)


def row_limit(text: str) -> int | None:
    """Type of ``--limit``: a number of rows; 0 and negative numbers stand for all of them (None), as published."""
    number = int(text)
    return number if number > 0 else None


def add_overwrite(parser: argparse._ActionsContainer, about: str, *old_names: str, also: Sequence[str] = ()) -> None:
    """The option that discards existing results: ``--overwrite``.

    ``also`` are published names of it, shown beside it; ``old_names`` are accepted and not shown.
    """
    parser.add_argument("--overwrite", *also, dest="overwrite", action="store_true", help=about)
    for name in old_names:
        add_hidden(parser, name, "overwrite", action="store_true")


def add_hidden(parser: argparse._ActionsContainer, name: str, dest: str, **options: Any) -> None:
    """Another name of the option ``dest`` that ``--help`` does not show."""
    parser.add_argument(name, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
