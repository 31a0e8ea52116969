"""JSON lines: one reader and one writer for every log and list, which split at line feeds only.

``str.splitlines`` also splits at U+2028, U+0085 and others, which JSON texts may contain as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from src.common.errors import UserError


def split_lines(text: str) -> list[str]:
    r"""Lines of a text without their ends, ``\n`` or ``\r\n``; a final line end opens no further line."""
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return [line.removesuffix("\r") for line in found]


def read_json_lines(path: Path, skip_broken: bool = False) -> Iterator[Any]:
    """Values of a JSON-lines file in order, without blank lines; empty if the file does not exist.

    ``skip_broken`` leaves out lines that are not JSON, as a killed writer leaves one. Otherwise such a line raises
    :class:`UserError` naming the file and the line.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                if not skip_broken:
                    raise UserError(f"{path}, line {number}: not JSON ({error}); one value per line") from error


def json_line(value: Any) -> str:
    r"""One line, its end included. What UTF-8 cannot hold (bytes of a file name) is escaped, as ``\udcff``."""
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def json_lines(values: Iterable[Any]) -> str:
    """Text of a JSON-lines file."""
    return "".join(map(json_line, values))
