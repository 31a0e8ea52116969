"""Rows of corpora that keep their files as they are: one file a piece of work, any number of rows from it."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from src.common.errors import UserError
from src.corpus.collect.audio import seconds_of
from src.corpus.recipe import Draft, Dropped, Inputs, Recipe, Row, Stored, Work, row_fields

T = TypeVar("T")
Drafts = Callable[[Inputs], Iterable["Draft | Dropped"]]


def attempt(ids: tuple[str, str], make: Callable[[], T | Dropped]) -> T | Dropped:
    """What ``make`` returns; if it fails in any way, the row of these ids is dropped, with the reason."""
    try:
        return make()
    except UserError as error:
        return Dropped(*ids, str(error))
    except Exception as error:  # whatever is wrong with one row or file, the others go on
        return Dropped(*ids, f"{type(error).__name__}: {error}")


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


def lines(path: Path, without_last: bool = False) -> list[str]:
    """Lines of a UTF-8 text file that hold more than white space, without their ends.

    ``without_last`` leaves the last one out, as published readers did.
    """
    with path.open(encoding="utf-8") as file:
        found = [line.rstrip("\r\n") for line in file if line.strip()]
    return found[:-1] if without_last else found


def table(path: Path, delimiter: str = ",", needs: Iterable[str] = ()) -> Iterator[dict[str, str]]:
    """Rows of a CSV file with a header. Raises :class:`UserError` if a needed column is not there."""
    with path.open(encoding=_encoding(path), newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        missing = [name for name in needs if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        yield from reader


def _encoding(path: Path) -> str:
    """UTF-8, or Latin-1 where a file is older than that; a mark at the start is no text."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            while file.read(1 << 20):
                pass
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


MISSING = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
"""Cells that pandas reads as missing unless told otherwise, and so did the published readers."""


def speaker_table(path: Path, comment: str = ";", without_last: bool = False) -> dict[str, str]:
    """``Male`` (M) or ``Female`` by speaker, from the first two columns of a table with ``|`` between them."""
    rows = [line.split("|") for line in lines(path, without_last) if not line.startswith(comment)]
    return {row[0].strip(): "Male" if row[1].strip() == "M" else "Female" for row in rows if len(row) > 1}


def folders(path: Path) -> list[Path]:
    """Folders in ``path`` in the order of their names."""
    return sorted(each for each in path.iterdir() if each.is_dir())


def files(path: Path, suffix: str = "") -> list[Path]:
    """Files in ``path`` with this suffix in the order of their names, those of macOS's resource forks left out."""
    found = (each for each in path.iterdir() if each.is_file() and each.name.endswith(suffix))
    return sorted(each for each in found if not each.name.startswith("._"))
