"""Command lines: exceptions become one line and an exit code; options are made from dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from src.common.errors import UserError, explain
from src.common.log import setup_logging


def run_cli(main: Callable[[], int | None], spins: bool = False) -> NoReturn:
    """Run ``main`` and exit with its return value (``None`` is 0), 1 or 2 for a ``UserError``, 130 for Ctrl-C.

    Errors of the machine (disk full, no network, lost device) are one line too, with exit code 1. ``spins``: see
    :func:`set_wait_policy`.
    """
    setup_logging()
    set_wait_policy(spins)
    # The collector looks for cycles after every 700 new objects, and imports of torch, transformers and vLLM make
    # millions that stay: an eighth of their time. https://docs.python.org/3.11/library/gc.html#gc.set_threshold
    gc.set_threshold(20_000, *gc.get_threshold()[1:])
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a reader that has gone can still be reported as an exit code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:
        # The reader of the output has ended (`... | head`). The interpreter would flush stdout again at exit:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
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


def set_wait_policy(spins: bool = False) -> None:
    """Say how OpenMP threads wait for work, unless the environment does; to be called before torch is loaded.

    Without ``spins`` they sleep at once, with it they spin for some microseconds first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # By default they spin for milliseconds, and torch waits after every operation: two programs on the same cores
        # take each other's time (a training step of 0.8 s took 17 s; scripts/perf/train_step.py on two cores).
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        if spins:
            # Sleeping threads are slow to wake. Clips a second alone, and beside other work: by default 5.2 and 0.26,
            # asleep 3.3 and 2.9, with this 4.6 and 2.1. https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
            os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def add_options(
    parser: argparse._ActionsContainer,
    settings: type[Any],
    about: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Add an option for every field of the dataclass ``settings``: ``max_tokens`` becomes ``--max-tokens``.

    ``about`` explains each field; its default is added. ``aliases`` are more names of a field's option, shown next to
    it. Fields are numbers, texts or switches, all of them optional; a ``limit`` below 1 means all rows.
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
    """Type of ``--limit``: a number of rows; 0 and negative numbers mean all of them (None), as published."""
    number = int(text)
    return number if number > 0 else None


def add_overwrite(parser: argparse._ActionsContainer, about: str, *old_names: str, also: Sequence[str] = ()) -> None:
    """Add ``--overwrite``, which discards existing results.

    ``also`` are published names of it, shown next to it; ``old_names`` are accepted and not shown.
    """
    parser.add_argument("--overwrite", *also, dest="overwrite", action="store_true", help=about)
    for name in old_names:
        add_hidden(parser, name, "overwrite", action="store_true")


def add_hidden(parser: argparse._ActionsContainer, name: str, dest: str, **options: Any) -> None:
    """Add another name of the option ``dest`` that ``--help`` does not show."""
    parser.add_argument(name, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
