"""How entry files end: a user's mistake becomes one line on standard error and an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from src.common.errors import UserError
from src.common.log import setup_logging


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit: its return value (``None`` is 0), 1 or 2 for a ``UserError``, 130 for Ctrl-C."""
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
    sys.exit(code)


def add_options(parser: argparse._ActionsContainer, settings: type[Any], about: Mapping[str, str]) -> None:
    """One option for every field of the dataclass ``settings``: ``max_tokens`` becomes ``--max-tokens``.

    ``about`` explains each field; its default is added. Fields are numbers, texts or switches, all of them optional.
    """
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        option = "--" + field.name.replace("_", "-")
        text = about[field.name] + ("" if field.default is None else f" (default: {field.default})")
        if hints[field.name] is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        else:
            kinds = [kind for kind in typing.get_args(hints[field.name]) if kind is not type(None)]
            kind = (kinds or [hints[field.name]])[0]
            parser.add_argument(option, type=kind, default=field.default, metavar="X", help=text)
