"""Results on disk as they come: append-only files of JSON lines that outlive a killed run.

A row is written once, when it is finished, with the key of its split and position. The next run over the same folder
reads what is there and does the rest. A line that was cut by a kill is dropped, and its row done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from src.common.errors import UserError
from src.common.existing import is_empty
from src.common.lock import empty_folder, hold_folder, may_discard
from src.common.log import get_logger
from src.common.machine import say_where
from src.common.run_record import write_json

log = get_logger(__name__)
FOLDER = ".shards"
SETTINGS = "settings.json"


class Shards:
    """The shards of one output folder.

    ``settings`` are all that decides a row's result. Results of other settings are an error, or with ``overwrite``
    removed, and so is what another program wrote in the folder. While it is open, no other run can open the folder: a
    :class:`UserError`.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder = directory / FOLDER
        self._file: Any = None
        self._lock = hold_folder(directory)
        overwrite = may_discard(overwrite, self._lock.changed, directory, "overwrite=true")
        wanted = json.loads(json.dumps(settings))
        known = self._known_settings()
        if known != wanted and not (known is None and (self.folder.is_dir() or is_empty(directory))):
            if not overwrite:
                self.close()
                raise UserError(
                    f"{directory} holds results of {_other(known, wanted)}; give overwrite=true to replace them, or "
                    "run_tag=NAME to keep both"
                )
            log.info("%s: replacing results of %s", directory, _other(known, wanted))
            empty_folder(directory)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / SETTINGS, wanted)

    def read(self) -> dict[str, dict[str, Any]]:
        """Finished records by key."""
        records: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        record = json.loads(line)
                        records[record["key"]] = record
                    except (ValueError, KeyError, TypeError):
                        log.info("%s: line %d was cut by an interruption; its row is done again", path, number)
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one finished record (with ``key``); it survives the end of this process from here on."""
        if self._file is None:
            numbers = [int(path.stem.split("-")[1]) for path in self.folder.glob("part-*.jsonl")]
            path = self.folder / f"part-{max(numbers, default=-1) + 1:05d}.jsonl"
            self._file = path.open("x", encoding="utf-8")
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the shard of this run, and give the folder free."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.close()

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            say_where(error, self.folder.parent)
        self.close()

    def _known_settings(self) -> Any:
        path = self.folder / SETTINGS
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return {}


def _other(known: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    if known is None:
        return "another program"
    differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
    return f"other settings ({', '.join(differing)})"
