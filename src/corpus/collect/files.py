"""Rows of corpora that keep their files as they are: one file a piece of work, any number of rows from it."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from src.common.errors import UserError
from src.corpus.collect.audio import seconds_of
from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, Row, Stored, Work, row_fields

S = TypeVar("S")
T = TypeVar("T")
Drafts = Callable[[Inputs], Iterable["Draft | Dropped"]]


def attempt(ids: tuple[str, str], make: Callable[[], T | Dropped]) -> T | Dropped:
    """What ``make`` returns; if it fails in any way, the row of these ids is dropped, with the reason."""
    try:
        return make()
    except Exception as error:  # whatever is wrong with one row or file, the others go on
        return Dropped(*ids, reason_of(error))


def reason_of(error: Exception) -> str:
    """Why a row is dropped, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        return f"has no {error.args[0]!r}"
    if "NoneType" in str(error):
        return f"has an empty cell ({type(error).__name__}: {error})"
    return f"{type(error).__name__}: {error}"


def each_row(
    rows: Iterable[S], ids: Callable[[S], tuple[object, object]], make: Callable[[S], Iterable[T | Dropped]]
) -> Iterator[T | Dropped]:
    """All that ``make`` gives for every row of a table or list.

    A row with a cell that cannot be used is dropped under its ``ids``, with the reason, and the others go on: every
    recipe goes through its tables with this function.
    """
    for row in rows:
        named = attempt(("", ""), functools.partial(_names, ids, row))
        names = (str(row)[:200], "") if isinstance(named, Dropped) else named
        found = attempt(names, functools.partial(_all_of, make, row))
        if isinstance(found, Dropped):
            yield found
        else:
            yield from found


def _names(ids: Callable[[S], tuple[object, object]], row: S) -> tuple[str, str]:
    one, two = ids(row)
    return str(one), str(two)


def _all_of(make: Callable[[S], Iterable[T | Dropped]], row: S) -> list[T | Dropped]:
    return list(make(row))


def file_rows(drafts: Drafts) -> Work:
    """A corpus of whole files. Drafts of the same file that follow each other share one decoding."""
    return Work(functools.partial(_by_file, drafts), make_files)


def _by_file(drafts: Drafts, inputs: Inputs) -> Iterator[list[Draft | Dropped]]:
    for _, group in itertools.groupby(drafts(inputs), _file_of):
        yield list(group)


def _file_of(draft: Draft | Dropped) -> object:
    return draft.file if isinstance(draft, Draft) else id(draft)


def make_files(job: list[Draft | Dropped], inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    """Measure the one file of all drafts of ``job`` and describe them."""
    if isinstance(job[0], Dropped):
        yield from (each for each in job if isinstance(each, Dropped))
        return
    path = job[0].file
    assert path is not None
    measured = functools.cache(seconds_of)
    for draft in job:
        assert isinstance(draft, Draft)

        def make(draft: Draft = draft) -> Row:
            stored = Stored(path.name, file=path, size=path.stat().st_size)
            seconds = None if recipe.text_type == "none" else measured(path)
            return Row(row_fields(recipe, draft, seconds), stored)

        yield attempt((draft.unique_id_1, draft.unique_id_2), make)


def lines(path: Path, without_last: bool = False, without_unended: bool = False) -> list[str]:
    """Lines of a UTF-8 text file that hold more than white space, without their ends.

    ``without_last`` leaves the last line out, blank or not, and ``without_unended`` one without a line end, as the
    published readers did. Bytes that are not UTF-8 stay in their line as surrogates, so that only its row is dropped.
    """
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
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
