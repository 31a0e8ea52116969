"""From a recipe's sources to a tree that its functions read: given files first, the network for what is missing."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.collection.download import fetch
from src.collection.retry import Patience
from src.collection.sources import HubFile
from src.collection.space import announced_size, check_room
from src.collection.unpack import unpack, unpack_volumes
from src.common.errors import UserError
from src.common.log import get_logger
from src.corpus.collect.hub import open_rows
from src.corpus.recipe import Files, HubFiles, HubRows, Inputs, Options, Recipe, Source

_log = get_logger(__name__)
_AT_ONCE = 3
_ROWS = ("dataset_dict.json", "state.json", "rows", "*.parquet", "data/*.parquet", "README.md", ".gitattributes")
"""What a folder with rows holds: a saved set, or a copy of a repository of the Hub."""
_DEEP_ROWS = ("*/*.parquet", "*/*/*.parquet", "*.tar", "*/*.tar", "*/*/*.tar")
"""The same where the folder is the corpus's own, so that these are no other corpus's."""
_SPACE_FACTOR = 3
"""Downloads, what they unpack to, and the saved set."""


@dataclass(frozen=True)
class Workspace:
    """Folders of one corpus while it is made, below its raw folder; ``given`` is the user's copy of its files."""

    folder: Path
    given: Path | None = None

    @property
    def downloads(self) -> Path:
        """Files as fetched."""
        return self.folder / "downloads"

    @property
    def tree(self) -> Path:
        """Unpacked files, laid out as upstream does."""
        return self.folder / "tree"

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where recipes look, in order."""
        return (self.tree, *((self.given,) if self.given else ()))


def given_folder(from_dir: Path | None, recipe: Recipe) -> Path | None:
    """The folder with the corpus's own files: ``DIR/NAME`` or ``DIR``, whichever holds more of them.

    ``None``, with a warning, if there is nothing: then everything is fetched. Raises :class:`UserError` if DIR is
    missing.
    """
    if from_dir is None:
        return None
    if not from_dir.is_dir():
        raise UserError(f"--from-dir {from_dir} is no folder")
    held = {folder: sum(_holds(folder, source, recipe.name) for source in recipe.sources)
            for folder in (from_dir / recipe.name, from_dir)}  # fmt: skip
    best = max(held, key=lambda folder: held[folder])
    if held[best]:
        return best
    _log.warning("%s: nothing of it is in %s or %s; it is fetched", recipe.name, from_dir, from_dir / recipe.name)
    return None


def _holds(folder: Path, source: Source, name: str) -> bool:
    if isinstance(source, HubRows):
        patterns = (*_ROWS, *_DEEP_ROWS) if folder.name == name else _ROWS
        return any(next(folder.glob(pattern), None) for pattern in patterns)
    if isinstance(source, Files) and any((folder / part.name).is_file() for part in source.parts):
        return True
    return (folder / source.yields).exists()


def gather(
    recipe: Recipe,
    work: Workspace,
    options: Options,
    check_space: bool = True,
    keep: bool = False,
    patience: Patience | None = None,
) -> Inputs:
    """Fetch and unpack what is neither given nor there already, and open the Hub rows.

    Archives are removed once unpacked unless ``keep``. Raises :class:`UserError` before the first byte if the disk
    has too little room.
    """
    missing = [source for source in recipe.sources if not _there(source, work, recipe.name)]
    if check_space:
        check_room(work.folder, _needed(recipe, missing, work), recipe.name)
    for source in missing:
        if isinstance(source, HubFiles):
            fetch(HubFile(source.repo, source.revision, "**"), work.tree, patience)
        elif isinstance(source, Files):
            _provide(source, work, keep, patience)
    rows: dict[str, Any] = {}
    for source in recipe.sources:
        if isinstance(source, HubRows):
            rows = open_rows(
                source, _local_rows(work, source, recipe.name), work.folder / "hub", recipe.audio, patience
            )
    return Inputs(work.roots, options, rows)


def _local_rows(work: Workspace, source: HubRows, name: str) -> Path | None:
    """The given folder if it holds rows, or its part ``rows`` where a set has rows and archives."""
    if work.given is None or not _holds(work.given, source, name):
        return None
    return work.given / "rows" if (work.given / "rows").is_dir() else work.given


def _there(source: Source, work: Workspace, name: str) -> bool:
    if isinstance(source, HubRows):
        return _local_rows(work, source, name) is not None
    if work.given is not None and (work.given / source.yields).exists():
        return True
    if isinstance(source, HubFiles):
        return False  # the Hub's client knows which of its files are there
    return _mark(source, work).exists()


def _mark(source: Files, work: Workspace) -> Path:
    return work.tree / source.into / f".{source.parts[0].name}.unpacked"


def _provide(source: Files, work: Workspace, keep: bool, patience: Patience | None) -> None:
    """Fetch one source and unpack it; a mark in the tree says that it is whole there."""
    named = [work.given / part.name for part in source.parts] if work.given else []
    is_given = bool(named) and all(path.is_file() for path in named)
    paths = named if is_given else _fetch_all(source, work, patience)
    target = work.tree / source.into
    if source.kind == "file":
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths[0], target / paths[0].name)
    else:
        unpack_volumes(paths, source.kind, target)  # marked below, when what it yields was looked at
    for inner in source.inner:
        if not (work.tree / inner).is_file():
            raise UserError(f"{source.parts[0].name} holds no {inner}; is it the right file?")
        unpack(work.tree / inner, (work.tree / inner).parent)
    if not (work.tree / source.yields).exists():
        raise UserError(f"{source.parts[0].name} holds no {source.yields}; is it the right file?")
    _mark(source, work).touch()
    for inner in source.inner:
        (work.tree / inner).unlink()
    if not is_given and not keep:
        for path in paths:
            path.unlink()


def _fetch_all(source: Files, work: Workspace, patience: Patience | None) -> list[Path]:
    with ThreadPoolExecutor(min(_AT_ONCE, len(source.parts))) as pool:
        return list(pool.map(lambda part: fetch(part, work.downloads, patience), source.parts))


def _needed(recipe: Recipe, missing: list[Source], work: Workspace) -> int:
    """Bytes still to come: downloads, what they unpack to, the saved set. Sizes that nobody tells count nothing."""
    needed = 0
    for source in missing:
        if isinstance(source, (HubRows, HubFiles)):
            needed += announced_size(HubFile(source.repo, source.revision, "*")) * _SPACE_FACTOR
            continue
        for part in source.parts:
            given = work.given / part.name if work.given else None
            have = next((path for path in (work.downloads / part.name, work.downloads / f"{part.name}.part")
                         if path.is_file()), None)  # fmt: skip
            if given is not None and given.is_file():
                needed += given.stat().st_size * (_SPACE_FACTOR - 1)
            elif have is not None and have.suffix != ".part":
                needed += have.stat().st_size * (_SPACE_FACTOR - 1)
            else:
                needed += announced_size(part) * _SPACE_FACTOR - (have.stat().st_size if have else 0)
    if not missing and work.given is not None:
        needed += sum(path.stat().st_size for path in work.given.rglob("*") if path.is_file())
    return needed
