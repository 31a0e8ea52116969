"""Existing outputs: skipped if complete, resumed if this program began them, overwritten only on request.

Every stage that writes a set, a split, a response set or generated answers calls :func:`next_step` first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src.common.errors import UserError, error_text
from src.common.log import get_logger

if TYPE_CHECKING:
    import numpy as np

_log = get_logger(__name__)
LISTING = "dataset_dict.json"
"""File of a saved ``DatasetDict`` that lists its splits; a folder without it is not a data set."""
RECORD = "run.json"
_KEY = "dataset_index"
_END = b"\xff\xff\xff\xff\0\0\0\0"
"""End of an Arrow stream (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format)."""
Step = Literal["write", "skip", "resume"]


def next_step(
    what: str,
    folder: Path,
    problem: str | None,
    *,
    ours: bool | None = None,
    overwrite: bool = False,
    option: str = "--overwrite",
    other_name: str = "",
) -> Step:
    """Decide what a stage does about its output ``folder``, which may exist already.

    Args:
        what: the output in messages, e.g. ``"responses esc50_Qwen3-0.6B_512"``.
        folder: where the output is written; nothing exists if it is missing or empty.
        problem: why the output is not complete; None if it is complete, made by any program.
        ours: whether this program made it; None: check for its record (:func:`has_record`).
        overwrite: the user's choice to replace what is there.
        option: the option that makes this choice, for messages.
        other_name: how to write somewhere else instead, for messages.

    Returns ``write`` if there is nothing or ``overwrite`` is given, ``skip`` (and logs it) for complete output,
    ``resume`` for output of this program that is not complete. Raises :class:`UserError` for output of another
    program that is not complete: it is left as it is until the user decides.
    """
    if is_empty(folder):
        return "write"
    if overwrite:
        _log.info("%s: %s is replaced", what, folder)
        return "write"
    if problem is None:
        _log.info("%s: %s exists; skipped (%s replaces it)", what, folder, option)
        return "skip"
    if has_record(folder) if ours is None else ours:
        return "resume"
    raise UserError(
        f"{what}: {folder} exists, is not a run of this program to continue, and is not complete ({problem}). "
        f"Nothing is changed. Pass {option} to replace it, or {other_name or 'move it away to keep it'}"
    )


def is_empty(folder: Path) -> bool:
    """Whether the folder or file does not exist, or the folder is empty."""
    return not (any(folder.iterdir()) if folder.is_dir() else folder.exists())


def has_record(folder: Path) -> bool:
    """Whether the folder has a ``run.json`` of this program."""
    return "config" in read_record(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder; empty if it does not exist or cannot be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def set_problem(
    folder: Path,
    columns: Iterable[str] = (),
    keys: Mapping[str, np.ndarray] | None = None,
    rows: Mapping[str, int] | None = None,
) -> str | None:
    """Why ``folder`` is not a complete saved ``DatasetDict``; None if it is one.

    The listing of the splits is checked, that the files of every split can be opened and have ``columns``. With
    ``keys`` every split named there must have a row for each of its ``dataset_index`` values ``(rows,)``; it may have
    more. ``rows`` are minimum counts for splits whose rows are not numbered. A saved single ``Dataset`` counts as its
    own split ``train``.
    """
    import numpy as np

    tables: dict[str, Any] = {}
    for split in listed_splits(folder):
        table = _open_split(folder / split if split else folder)
        if isinstance(table, str):
            return f"split {split or 'train'}: {table}"
        tables[split or "train"] = table
        absent = [name for name in columns if name not in table.column_names]
        if absent:
            return f"split {split or 'train'} has no column {', '.join(absent)}"
    if not tables:
        return f"no {LISTING}"
    for split in [*(keys or {}), *(rows or {})]:
        if split not in tables:
            return f"no split {split}"
    for split, least in (rows or {}).items():
        if tables[split].num_rows < least:
            return f"split {split} has {tables[split].num_rows} rows, expected {least}"
    for split, wanted in (keys or {}).items():
        table = tables[split]
        if _KEY in table.column_names:
            missing = np.setdiff1d(wanted, table.column(_KEY).to_numpy())
            if missing.size:
                return f"split {split} lacks {missing.size} of {wanted.size} rows, first {_KEY}: {missing[0]}"
        elif table.num_rows < wanted.size:
            return f"split {split} has {table.num_rows} rows, expected {wanted.size}"
    return None


def listed_splits(folder: Path) -> Sequence[str]:
    """Splits of a saved ``DatasetDict`` by its listing, ``[""]`` for a single set, empty if it is neither."""
    try:
        splits = json.loads((folder / LISTING).read_text(encoding="utf-8"))["splits"]
    except FileNotFoundError:
        return [""] if (folder / "state.json").is_file() else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return splits if isinstance(splits, list) and all(isinstance(split, str) for split in splits) else []


def load_saved(folder: Path) -> Any:
    """``datasets.load_from_disk``. Raises also ValueError if a file is cut: the library may return fewer rows."""
    from datasets import load_from_disk

    for split in listed_splits(folder):
        for name in _arrow_files(folder / split) or ():
            if not _has_end(folder / split / name):
                raise ValueError(f"{Path(split, name)} is cut; write or copy the set again")
    return load_from_disk(str(folder))


def _arrow_files(folder: Path) -> list[str] | None:
    """Names of a split's files; None if its ``state.json`` is missing or broken."""
    try:
        names = [file["filename"] for file in json.loads((folder / "state.json").read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _has_end(path: Path) -> bool:
    """Whether an Arrow file ends as it should: one cut between two batches is read as one of fewer rows."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END)))
        return file.read() == _END


def _open_split(folder: Path) -> Any:
    """The memory-mapped Arrow table of a split, or a text that says why it cannot be opened."""
    import pyarrow as pa

    names = _arrow_files(folder)
    if names is None:
        return "state.json is missing or broken"
    try:
        features = list(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["features"])
    except (OSError, ValueError, KeyError, TypeError):
        return "dataset_info.json is missing or broken"
    tables = []
    for name in names:
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all())
            if not _has_end(folder / name):
                return f"{name} is cut"
        except (OSError, pa.ArrowInvalid) as error:
            return f"{name} cannot be read ({error_text(error, 100)})"
    if tables:
        return pa.concat_tables(tables)
    return pa.table({name: pa.array([], pa.null()) for name in features})
