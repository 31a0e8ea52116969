"""Results of one stage on disk while it runs: append-only lines, found again by row, safe against being killed.

Memory stays flat: of every finished row only its place in the files is held, a few bytes.
"""

from __future__ import annotations

import fcntl
import json
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.common.errors import UserError
from src.common.run_record import write_json
from src.dataset.tables import KEY, find_rows

_OFFSET_BITS = 44
SETTINGS_FILE = "settings.json"


def input_digest(*texts: str) -> int:
    """Checksum of what a result was made from, kept beside it to notice rebuilt inputs."""
    return zlib.crc32("\x00".join(texts).encode())


class Journal:
    """Records of one stage, one per row of a table; the newest record of a row counts.

    A record is a JSON object with ``dataset_index``, ``input`` (see :func:`input_digest`), ``ok`` and whatever else
    the stage keeps. Files are ``part-NNNNN.jsonl``; a writer appends to its own ``part`` and reads all.

    Attributes:
        ok: bool ``(rows,)``, the newest record's ``ok``; false for rows without one.
    """

    def __init__(
        self, folder: Path, keys: np.ndarray, settings: Mapping[str, Any], part: int = 0, restart: str = "--overwrite"
    ) -> None:
        """Open or create the journal in ``folder``.

        Args:
            keys: ``dataset_index`` of every row, int64 ``(rows,)``.
            settings: what shapes the results; must equal what the folder was begun with.
            part: number of this writer's file.
            restart: the command's option that discards results, for messages.

        Raises :class:`UserError` if the settings differ, a line in the middle of a file is damaged, or another
        process writes this part.
        """
        self.folder = folder
        self.keys = keys
        self._restart = restart
        self.ok = np.zeros(keys.size, dtype=bool)
        self._places = np.full(keys.size, -1, dtype=np.int64)
        self._inputs = np.zeros(keys.size, dtype=np.uint32)
        folder.mkdir(parents=True, exist_ok=True)
        _check_settings(folder / SETTINGS_FILE, dict(settings), restart)
        own = folder / f"part-{part:05d}.jsonl"
        self._writer = _lock(own)
        self._files = sorted(folder.glob("part-*.jsonl"))
        for number, path in enumerate(self._files):
            self._scan(number, path)
        self._own = self._files.index(own)
        _drop_torn_line(own)
        self._readers: dict[int, BinaryIO] = {}
        self._writer.seek(0, 2)

    def _scan(self, number: int, path: Path) -> None:
        keys, inputs, places, good = array("q"), array("q"), array("q"), array("b")
        offset = 0
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break  # a writer was killed in the middle of its last line
                try:
                    record = json.loads(line)
                    keys.append(record[KEY])
                    inputs.append(record["input"])
                    good.append(bool(record["ok"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{path}, line {count}: not a record of this stage ({error}); delete the line, or start "
                        f"again with {self._restart}"
                    ) from error
                places.append((number << _OFFSET_BITS) | offset)
                offset += len(line)
        rows = find_rows(self.keys, np.array(keys, dtype=np.int64))
        known = rows >= 0  # rows beyond today's --limit stay in the file, unused
        self._places[rows[known]] = np.array(places, dtype=np.int64)[known]
        self._inputs[rows[known]] = np.array(inputs, dtype=np.int64)[known]
        self.ok[rows[known]] = np.array(good, dtype=bool)[known]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self._files)

    def has(self, row: int, digest: int) -> bool:
        """Whether ``row`` has a record that was made from this input."""
        return bool(self._places[row] >= 0) and int(self._inputs[row]) == digest

    def known(self, row: int) -> bool:
        """Whether ``row`` has a record."""
        return bool(self._places[row] >= 0)

    def read(self, row: int) -> dict[str, Any]:
        """The newest record of ``row``. Raises :class:`KeyError` if it has none."""
        place = int(self._places[row])
        if place < 0:
            raise KeyError(row)
        number, offset = place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)
        if number not in self._readers:
            self._readers[number] = self._files[number].open("rb")
        reader = self._readers[number]
        reader.seek(offset)
        record: dict[str, Any] = json.loads(reader.readline())
        return record

    def append(self, row: int, digest: int, ok: bool, **fields: Any) -> None:
        """Write a record of ``row`` and hand it to the operating system before returning."""
        record = {KEY: int(self.keys[row]), "input": digest, "ok": ok, **fields}
        offset = self._writer.tell()
        self._writer.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._writer.flush()
        self._places[row] = (self._own << _OFFSET_BITS) | offset
        self._inputs[row] = digest
        self.ok[row] = ok

    def close(self) -> None:
        """Close all files."""
        self._writer.close()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def _check_settings(path: Path, settings: dict[str, Any], restart: str) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, settings)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before == settings:
        return
    changed = [
        f"{key}: was {before.get(key)!r}, is {settings.get(key)!r}"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    raise UserError(
        f"{path.parent} holds results of other settings ({'; '.join(changed)}); repeat the run with the settings it "
        f"was begun with, or pass {restart} to discard its results"
    )


def _lock(path: Path) -> BinaryIO:
    """Open for appending, for this process alone; the lock goes when the file is closed, also by being killed."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(f"another run is writing {path}; wait for its end or stop it") from error
    return file


def _drop_torn_line(path: Path) -> None:
    """Cut an unfinished last line off, so that the next record begins on a line of its own."""
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                file.truncate(begin + newline + 1)
                return
            end = begin
        file.truncate(0)
