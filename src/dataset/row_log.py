"""Resumable logs of finished rows: append-only JSON lines that outlive a killed run.

A log is a folder with ``settings.json``, which every result in it depends on, and ``part-NNNNN.jsonl`` with one
record per line. A run appends each row when it is finished; the next run reads what is there and does the rest.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from src.common.errors import UserError, say_where
from src.common.existing import is_empty
from src.common.files import json_line, write_json
from src.common.lock import empty_folder, lock_folder, may_discard
from src.common.log import get_logger
from src.dataset.tables import KEY, find_rows

log = get_logger(__name__)
SHARDS = ".shards"
"""Folder of a generation run's log in its output folder."""
JOURNAL = "journal"
"""Folder with the logs of all stages in a response folder."""
SETTINGS = "settings.json"
_ADDED_LATER = ("chat_template",)
"""Settings that logs of earlier versions do not have: a log without them is continued with any value."""
_OFFSET_BITS = 44
"""A record's place is one integer: number of its part, then its byte offset (parts of up to 16 TiB)."""


def input_digest(*texts: str) -> int:
    """Checksum of the texts that a result was made from, stored with it to notice inputs that changed."""
    # 32 bits, as a log keeps one number for each of millions of rows; if two texts have the same, one in four
    # billion times, a changed input is not noticed.
    return zlib.crc32("\x00".join(texts).encode())


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, in the order of their names, with both values (None: absent)."""
    now = json.loads(json.dumps(now))  # as they are read back: tuples are lists
    names = sorted({*before, *now} - {name for name in _ADDED_LATER if name not in before})
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


class RowLog:
    """Append-only records in a folder that one process writes at a time; the caller holds the lock.

    Every run appends to a part of its own. A last line without a line end was cut by a kill: it is ignored and its
    row is done again. Any other line that is not a record raises :class:`UserError` if ``strict``; otherwise its row
    is done again too.
    """

    strict = True
    ascii = False
    """Whether non-ASCII text is written as escapes."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or create the log. Raises :class:`UserError` if it was begun with other settings."""
        self.folder = folder
        known = _read_settings(folder)
        changed = {} if known is None else changed_settings(known, settings)
        if changed:
            differing = "; ".join(f"{name}: was {old!r}, is {new!r}" for name, (old, new) in changed.items())
            raise UserError(
                f"{folder} holds results of other settings ({differing}); repeat the run with the settings it was "
                "begun with, or pass --overwrite to discard its results"
            )
        if known is None:
            write_json(folder / SETTINGS, settings)
        self.parts = sorted(folder.glob("part-*.jsonl"))
        self._writer: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(path.stat().st_size for path in self.parts)

    def read_parts(self, add: Callable[[int, dict[str, Any]], None]) -> None:
        """Call ``add(place, record)`` for every record in the order of writing.

        ``add`` may raise KeyError, TypeError, ValueError or OverflowError for what is not a record of this log.
        """
        for number, path in enumerate(self.parts):
            offset = 0
            with path.open("rb") as lines:
                for count, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        log.info("%s: line %d was cut by an interruption; its row is done again", path, count)
                        break
                    try:
                        add((number << _OFFSET_BITS) | offset, json.loads(line))
                    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                        if self.strict:
                            raise UserError(
                                f"{path}, line {count}: not a record of this stage ({error}); delete the line, or "
                                "start again with --overwrite"
                            ) from error
                        log.info("%s: line %d is not a record (%s); its row is done again", path, count, error)
                    offset += len(line)

    def write(self, record: Mapping[str, Any]) -> int:
        """Append one record and hand it to the operating system before returning its place."""
        if self._writer is None:
            # a part of its own: what a killed run left is never changed, and on file systems without locks two runs
            # do not write into one file
            number = int(self.parts[-1].stem.partition("-")[2]) + 1 if self.parts else 0
            self.parts.append(self.folder / f"part-{number:05d}.jsonl")
            self._writer = self.parts[-1].open("xb")
        place = (len(self.parts) - 1) << _OFFSET_BITS | self._writer.tell()
        line = json.dumps(record) + "\n" if self.ascii else json_line(record)
        self._writer.write(line.encode())
        # enough for a killed process; an fsync per row would only protect from a power cut, at a high price
        self._writer.flush()
        return place

    def close(self) -> None:
        """Close all files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ResultLog(RowLog):
    """Results of a generation run by the key of their row (split and position), in ``.shards`` of its output folder.

    The output folder is locked while the log is open.
    """

    strict = False
    ascii = True

    def __init__(self, directory: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Open the log of an output folder.

        Results of other settings or of another program are removed with ``overwrite``; otherwise they raise
        :class:`UserError`, as does a folder in which another run is writing.
        """
        self._lock = lock_folder(directory)
        overwrite = may_discard(overwrite, self._lock.changed, directory, "overwrite=true")
        known = _read_settings(directory / SHARDS)
        other = ""
        if known is None:
            other = "" if (directory / SHARDS).is_dir() or is_empty(directory) else "another program"
        elif changed := changed_settings(known, settings):
            other = f"other settings ({', '.join(changed)})"
        if other and not overwrite:
            self._lock.close()
            raise UserError(
                f"{directory} holds results of {other}; give overwrite=true to replace them, or run_tag=NAME to keep "
                "both"
            )
        if other:
            log.info("%s: replacing results of %s", directory, other)
            empty_folder(directory)
        super().__init__(directory / SHARDS, settings)

    def read(self) -> dict[str, dict[str, Any]]:
        """Finished records by key."""
        records: dict[str, dict[str, Any]] = {}
        self.read_parts(lambda _, record: records.update({record["key"]: record}))
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one finished record (with ``key``)."""
        self.write(record)

    def close(self) -> None:
        """Close the files and release the lock on the output folder."""
        super().close()
        self._lock.close()

    def __enter__(self) -> ResultLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            say_where(error, self.folder.parent)
        self.close()


class StageLog(RowLog):
    """Results of one stage for the rows of a table; the newest record of a row counts.

    A record has ``dataset_index``, ``input`` (:func:`input_digest`), ``ok`` and the fields of its stage. Memory stays
    flat: of every row only the place of its record in the files is kept.

    Attributes:
        ok: bool ``(rows,)``, the newest record's ``ok``; false for rows without one.
    """

    def __init__(self, folder: Path, keys: np.ndarray, settings: Mapping[str, Any]) -> None:
        """Open or create the log in ``folder``; ``keys`` is the ``dataset_index`` of every row, int64 ``(rows,)``.

        Raises :class:`UserError` if the settings differ, or a line in the middle of a file is damaged.
        """
        super().__init__(folder, settings)
        self.keys = keys
        self.ok = np.zeros(keys.size, dtype=bool)
        self._places = np.full(keys.size, -1, dtype=np.int64)
        self._inputs = np.zeros(keys.size, dtype=np.uint32)
        self._reader: BinaryIO | None = None
        self._part_read = -1
        # array: 8 bytes per record, where a list has a Python object for each
        found, inputs, places, ok = array("q"), array("q"), array("q"), array("b")

        def add(place: int, record: dict[str, Any]) -> None:
            found.append(record[KEY])
            inputs.append(record["input"])
            ok.append(bool(record["ok"]))
            places.append(place)

        self.read_parts(add)
        # Where a row has several records, numpy keeps the value assigned last, that of the newest one.
        rows = find_rows(keys, np.array(found, dtype=np.int64))
        known = rows >= 0  # rows beyond today's --limit stay in the file, unused
        self._places[rows[known]] = np.array(places, dtype=np.int64)[known]
        self._inputs[rows[known]] = np.array(inputs, dtype=np.int64)[known]
        self.ok[rows[known]] = np.array(ok, dtype=bool)[known]

    def has(self, row: int, digest: int) -> bool:
        """Whether ``row`` has a record that was made from this input."""
        return self.known(row) and int(self._inputs[row]) == digest

    def known(self, row: int) -> bool:
        """Whether ``row`` has a record."""
        return bool(self._places[row] >= 0)

    def read(self, row: int) -> dict[str, Any]:
        """The newest record of ``row``. Raises :class:`KeyError` if it has none."""
        if not self.known(row):
            raise KeyError(row)
        number, offset = divmod(int(self._places[row]), 1 << _OFFSET_BITS)
        if self._reader is None or self._part_read != number:
            # one open file per log: a command over all corpora has hundreds of logs
            if self._reader is not None:
                self._reader.close()
            self._reader, self._part_read = self.parts[number].open("rb"), number
        self._reader.seek(offset)
        record: dict[str, Any] = json.loads(self._reader.readline())
        return record

    def append(self, row: int, digest: int, ok: bool, **fields: Any) -> None:
        """Write a record of ``row``."""
        self._places[row] = self.write({KEY: int(self.keys[row]), "input": digest, "ok": ok, **fields})
        self._inputs[row] = digest
        self.ok[row] = ok

    def close(self) -> None:
        """Close all files."""
        super().close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of a log; None without a file, empty if it cannot be read or is no object."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
