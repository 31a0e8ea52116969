"""Command-line options made from a settings dataclass."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def add_settings(parser: argparse.ArgumentParser, settings: type, about: Mapping[str, str]) -> None:
    """One option for every field of the dataclass ``settings``, ``max_tokens`` as ``--max-tokens``.

    ``about`` holds the help of every field. A flag gets its ``--no-`` form.
    """
    hints = typing.get_type_hints(settings)
    for field in fields(settings):
        option = "--" + field.name.replace("_", "-")
        shown = about[field.name] + ("" if field.default is None else f" (default: {field.default})")
        if hints[field.name] is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default, help=shown)
        else:
            kinds = [
                kind for kind in typing.get_args(hints[field.name]) or (hints[field.name],) if kind is not type(None)
            ]
            parser.add_argument(option, type=kinds[0], default=field.default, metavar="X", help=shown)


def read_settings(settings: type[Settings], arguments: Mapping[str, Any]) -> Settings:
    """The dataclass from parsed arguments; other arguments are left alone."""
    names = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    return settings(**{name: value for name, value in arguments.items() if name in names})
