"""Readers of upstream lists and tables, and of their cells."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from src.common.errors import UserError

S = TypeVar("S")
T = TypeVar("T")


def lines(
    path: Path, without_last: bool = False, without_unended: bool = False, encoding: str = "utf-8"
) -> list[str]:
    """Lines of a text file that are more than white space, without their ends.

    ``without_last`` leaves the last line out, blank or not, and ``without_unended`` one without a line end, as the
    published readers did. Bytes that are not UTF-8 stay in their line as surrogates, so that only its row is dropped.
    """
    with path.open(encoding=encoding, errors="surrogateescape") as file:
        found = file.readlines()
    if found and (without_last or (without_unended and not found[-1].endswith("\n"))):
        found.pop()
    return [line.rstrip("\r\n") for line in found if line.strip()]


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises :class:`UserError` naming a file that is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); is the download complete?") from error


def table(
    path: Path, delimiter: str = ",", needs: Iterable[str] = (), latin: bool = False
) -> Iterator[dict[str, str]]:
    """Rows of a UTF-8 CSV file with a header; cells that a short row lacks are empty.

    Cells that are not UTF-8 are read as Latin-1 if ``latin``; otherwise their bytes stay in them as surrogates, so
    that only their row is dropped. Raises :class:`UserError` if a needed column is not there.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, restval="")
        missing = [name for name in needs if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        try:
            for row in reader:
                yield {name: _latin(cell) for name, cell in row.items()} if latin else row
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; is a quotation mark missing?") from error


def _latin(cell: str) -> str:
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return cell.encode("utf-8", "surrogateescape").decode("latin-1")
    return cell


# `na_values` in https://pandas.pydata.org/docs/reference/api/pandas.read_csv.html
MISSING = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
"""Cells that pandas reads as missing unless told otherwise, and so did the published readers."""


def filled(text: str | None, name: str) -> str:
    """The text of a cell. Raises :class:`UserError` if it is blank or missing."""
    if text is None or not str(text).strip():
        raise UserError(f"{name} is empty")
    return text


def number(text: object, name: str, missing: float | None = None) -> float:
    """The number in a cell; ``missing`` for an empty one (:data:`MISSING`) if given.

    Raises :class:`UserError` for a cell that is no finite number.
    """
    if text is None or str(text).strip() in MISSING:
        if missing is None:
            raise UserError(f"{name} is {str(text)!r}, expected a number" if text else f"{name} is empty")
        return missing
    try:
        found = float(str(text))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{name} is {text!r}, expected a number")
    return found


def entry(known: Mapping[S, T], key: S, where: str) -> T:
    """The value of ``key``. Raises :class:`UserError` if ``where`` does not have it."""
    if key not in known:
        raise UserError(f"{where} has no {key!r}")
    return known[key]


def speaker_table(path: Path, comment: str = ";", as_published: bool = False) -> dict[str, str]:
    """``Male`` (M) or ``Female`` (F) by speaker, from the first two columns of a table with ``|`` between them.

    Speakers of no known gender are left out; ``as_published`` they are ``Female``.
    """
    rows = [line.split("|") for line in lines(path) if not line.startswith(comment)]
    found = {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
    known = {name: gender for name, gender in found.items() if as_published or gender in ("M", "F")}
    return {name: "Male" if gender == "M" else "Female" for name, gender in known.items()}


def folders(path: Path) -> list[Path]:
    """Folders in ``path`` in the order of their names."""
    return sorted(each for each in path.iterdir() if each.is_dir())


def files(path: Path, suffix: str = "") -> list[Path]:
    """Files in ``path`` with this suffix in the order of their names, those of macOS's resource forks left out."""
    found = (each for each in path.iterdir() if each.is_file() and each.name.endswith(suffix))
    return sorted(each for each in found if not each.name.startswith("._"))
