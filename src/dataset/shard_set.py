"""Rows of a shard set by number: shards are fetched when a row of them is asked for, or before, and kept on disk."""

from __future__ import annotations

import json
import mmap
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from src.common.errors import UserError, one_line
from src.common.log import get_logger
from src.dataset.remote_files import FileCache, is_local
from src.dataset.shard_index import ShardIndex

log = get_logger(__name__)
TEXTS, TEXT = ".json", ".txt"
# Python's mmap keeps a descriptor for each file (https://docs.python.org/3/library/mmap.html), and a process may
# often have only 1,024.
_OPEN_SHARDS = 128
_FETCHING = 4


class BrokenRowError(UserError):
    """A row of a shard that cannot be read, while its neighbours can; ``key`` names it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key


@dataclass(frozen=True)
class ShardRow:
    """Texts of one row and its clip as it was encoded, with the name of its file."""

    texts: dict[str, Any]
    clip: bytes | None
    clip_name: str


_Members = list[dict[str, tuple[int, int]]]
"""Of each row of a tar file: suffix of the file name -> offset and size."""


@dataclass(eq=False)
class ShardSet:
    """A shard set whose shards are kept in ``cache``; processes may be forked from one that uses it."""

    index: ShardIndex
    cache: FileCache
    _open: OrderedDict[int, tuple[mmap.mmap, _Members]] = field(default_factory=OrderedDict)

    def row(self, shard: int, place: int) -> ShardRow:
        """The row at ``place`` of a shard.

        Raises :class:`BrokenRowError` for a row that is damaged, :class:`UserError` naming the shard if that is, or
        cannot be fetched.
        """
        content, rows = self._opened(shard)
        key = f"{self.index.address_of(shard)}, row {place}"
        if place >= len(rows):
            listed = self.index.shards[shard].rows
            raise BrokenRowError(key, f"the shard has {len(rows)} rows, its index {listed}")
        files = {suffix: content[offset : offset + size] for suffix, (offset, size) in rows[place].items()}
        try:
            texts = json.loads(files[TEXTS]) if TEXTS in files else {}
            if not isinstance(texts, dict):
                raise ValueError(f"{TEXTS} has a {type(texts).__name__}, expected texts by name")
            if TEXT in files:
                texts.setdefault("text", files[TEXT].decode().strip())
        except ValueError as error:
            raise BrokenRowError(key, f"its texts cannot be read ({one_line(error)})") from error
        clips = [suffix for suffix in files if suffix not in (TEXTS, TEXT)]
        return ShardRow(texts, files[clips[0]] if clips else None, f"{place}{clips[0]}" if clips else "")

    def rows_of(self, shard: int) -> int:
        """Number of rows that a shard has in fact."""
        return len(self._opened(shard)[1])

    def fetch_ahead(self, shards: Sequence[int]) -> None:
        """Start to fetch shards in the background; what fails is reported when a row is asked for."""

        def fetch(chosen: Sequence[int]) -> None:
            for shard in chosen:
                try:
                    self._file(shard)
                except Exception as error:
                    log.debug("%s is not fetched ahead: %s", self.index.address_of(shard), one_line(error))

        wanted = [shard for shard in shards if not is_local(self.index.address_of(shard))]
        for first in range(min(_FETCHING, len(wanted))):
            # Daemons: a process that ends does not wait for a download, as it does for a ThreadPoolExecutor's.
            Thread(target=fetch, args=(wanted[first::_FETCHING],), daemon=True).start()

    def _file(self, shard: int) -> Path:
        listed = self.index.shards[shard]
        return self.cache.fetch(self.index.address_of(shard), listed.size, listed.sha256)

    def _opened(self, shard: int) -> tuple[mmap.mmap, _Members]:
        """Content of a shard and where the files of its rows are in it; the last shards read stay open."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while True:
            path = self._file(shard)
            try:
                with path.open("rb") as file:
                    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    rows = _members(file, self.index.address_of(shard))
                break
            except FileNotFoundError:  # another process removed it just now to make room
                continue
            except (tarfile.TarError, ValueError) as error:
                with suppress(FileNotFoundError):
                    if path.parent == self.cache.folder:  # else it is the user's own file
                        path.unlink()
                raise UserError(
                    f"{self.index.address_of(shard)}: not a whole tar file ({one_line(error)}); write the shard again"
                ) from error
        self._open[shard] = content, rows
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[shard]


def _members(file: Any, name: str) -> _Members:
    """Files of each row of a tar file: those that follow each other with the same name up to the first dot."""
    # The WebDataset convention: https://pytorch.org/data/0.6/generated/torchdata.datapipes.iter.WebDataset.html
    rows: _Members = []
    last = None
    with tarfile.open(fileobj=file, mode="r:") as archive:  # "r:" without compression, as offsets are those of bytes
        for member in archive:
            if not member.isfile():
                continue
            folder, base = os.path.split(member.name)
            stem, _, suffix = base.partition(".")
            if (folder, stem) != last:
                rows.append({})
                last = folder, stem
            rows[-1][f".{suffix}"] = member.offset_data, member.size
    if not rows:
        raise ValueError(f"{name} has no files")
    return rows
