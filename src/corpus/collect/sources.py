"""From a recipe's sources to its inputs: the user's files first, the network for what is missing, opened Hub rows."""

from __future__ import annotations

import functools
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError, error_text
from src.common.existing import load_saved
from src.common.log import get_logger
from src.common.retry import RetryPolicy, retrying
from src.corpus.recipe import Files, HubFiles, HubRows, Inputs, Options, Recipe, RecipeSource
from src.download.download import announced_size, check_room, fetch
from src.download.sources import HubFile
from src.download.unpack import unpack, unpack_volumes

_log = get_logger(__name__)
_AT_ONCE = 3
_ROWS = ("dataset_dict.json", "state.json", "rows", "*.parquet", "data/*.parquet", "README.md", ".gitattributes")
"""Content of a folder with rows: a saved set, or a copy of a repository of the Hub."""
_DEEP_ROWS = ("*/*.parquet", "*/*/*.parquet", "*.tar", "*/*.tar", "*/*/*.tar")
"""The same where the folder is the corpus's own, so that these are no other corpus's."""
_SPACE_FACTOR = 3
"""Downloads, the files they unpack to, and the saved set."""


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

    def mark(self, source: Files) -> Path:
        """Written when the source is in the tree completely."""
        return self.tree / source.into / f".{source.parts[0].name}.unpacked"


def given_folder(from_dir: Path | None, recipe: Recipe) -> Path | None:
    """The folder with the corpus's own files: ``DIR/NAME`` or ``DIR``, whichever has more of them.

    ``None``, with a warning, if there is nothing: then everything is fetched. A recipe without sources reads the
    folder whatever is in it. Raises :class:`UserError` if DIR is missing.
    """
    if from_dir is None:
        return None
    if not from_dir.is_dir():
        raise UserError(f"--from-dir {from_dir} is not a folder")
    found = {folder: sum(_has(folder, source, recipe.name) for source in recipe.sources)
             for folder in (from_dir / recipe.name, from_dir)}  # fmt: skip
    best = max(found, key=lambda folder: found[folder])
    if not recipe.sources:
        return min(found, key=lambda folder: not folder.is_dir())
    if found[best]:
        return best
    _log.warning("%s: nothing of it is in %s or %s; it is fetched", recipe.name, from_dir, from_dir / recipe.name)
    return None


def _has(folder: Path, source: RecipeSource, name: str) -> bool:
    """Whether the user's folder has the source's rows, or one of its files."""
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
    policy: RetryPolicy | None = None,
) -> Inputs:
    """Fetch and unpack what is neither given nor there already, and open the Hub rows.

    Archives are removed once unpacked unless ``keep``. Raises :class:`UserError` before the first byte if the disk
    has too little room.
    """
    local = {
        source: (work.given / "rows" if (work.given / "rows").is_dir() else work.given)
        for source in recipe.sources
        if isinstance(source, HubRows) and work.given is not None and _has(work.given, source, recipe.name)
    }
    missing = [source for source in recipe.sources if source not in local and not _is_there(source, work)]
    if check_space:
        check_room(work.folder, _needed_bytes(missing, work), recipe.name)
    for source in missing:
        if isinstance(source, HubFiles):
            fetch(HubFile(source.repo, source.revision, "**"), work.tree, policy)
        elif isinstance(source, Files):
            _fetch_and_unpack(source, work, keep, policy)
    rows: dict[str, Any] = {}
    for source in recipe.sources:
        if isinstance(source, HubRows):
            rows = open_rows(source, local.get(source), work.folder / "hub", recipe.audio, policy)
    return Inputs((work.tree, *((work.given,) if work.given else ())), options, rows)


def _is_there(source: RecipeSource, work: Workspace) -> bool:
    if isinstance(source, HubRows):
        return False
    if work.given is not None and (work.given / source.yields).exists():
        return True
    # the Hub's client itself knows which of the files of HubFiles are there
    return isinstance(source, Files) and work.mark(source).exists()


def _fetch_and_unpack(source: Files, work: Workspace, keep: bool, policy: RetryPolicy | None) -> None:
    named = [work.given / part.name for part in source.parts] if work.given else []
    is_given = bool(named) and all(path.is_file() for path in named)
    paths = named
    if not is_given:
        with ThreadPoolExecutor(min(_AT_ONCE, len(source.parts))) as pool:
            paths = list(pool.map(lambda part: fetch(part, work.downloads, policy), source.parts))
    target = work.tree / source.into
    if source.kind == "file":
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths[0], target / paths[0].name)
    else:
        unpack_volumes(paths, source.kind, target)  # marked below, once the yielded path was checked
    for inner in source.inner:
        if not (work.tree / inner).is_file():
            raise UserError(f"{source.parts[0].name} holds no {inner}; is it the right file?")
        unpack(work.tree / inner, (work.tree / inner).parent)
    if not (work.tree / source.yields).exists():
        raise UserError(f"{source.parts[0].name} holds no {source.yields}; is it the right file?")
    work.mark(source).touch()
    for inner in source.inner:
        (work.tree / inner).unlink()
    if not is_given and not keep:
        for path in paths:
            path.unlink()


def _needed_bytes(missing: list[RecipeSource], work: Workspace) -> int:
    """Bytes still to come: downloads, the files they unpack to, the saved set. Unknown sizes count nothing."""
    needed = 0
    for source in missing:
        if isinstance(source, (HubRows, HubFiles)):
            needed += announced_size(HubFile(source.repo, source.revision, "*")) * _SPACE_FACTOR
            continue
        for part in source.parts:
            whole = [work.given / part.name] if work.given else []
            there = next((path for path in (*whole, work.downloads / part.name) if path.is_file()), None)
            partial = work.downloads / f"{part.name}.part"
            if there is not None:
                needed += there.stat().st_size * (_SPACE_FACTOR - 1)
            else:
                fetched = partial.stat().st_size if partial.is_file() else 0
                needed += announced_size(part) * _SPACE_FACTOR - fetched
    # all is given: what is still to come is the saved set, about as large as its sources
    if not missing and work.given is not None:
        needed += sum(path.stat().st_size for path in work.given.rglob("*") if path.is_file())
    return needed


def open_rows(
    source: HubRows, local: Path | None, cache: Path, audio: str | None = None, policy: RetryPolicy | None = None
) -> dict[str, Any]:
    """The rows by split, ``{"train": all chosen splits in order}`` unless the source keeps its splits.

    Args:
        local: a copy of the repository, or a folder written by ``save_to_disk``, instead of the Hub.
        cache: where downloads and Arrow files of the library go.
        audio: column whose cells are to stay encoded.

    Raises :class:`UserError` naming the repository or folder if it cannot be read or lacks a split.
    """
    from datasets import Audio, Dataset, DatasetDict, concatenate_datasets, load_dataset

    def encoded(rows: Any) -> Any:
        return rows.cast_column(audio, Audio(decode=False)) if audio in rows.column_names else rows

    try:
        if local is not None and any((local / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
            saved = load_saved(local)
            found = DatasetDict({"train": saved}) if isinstance(saved, Dataset) else saved
        elif local is not None:
            # unchecked: a copy may have some of the files only, and a card that states the sizes of all
            found = load_dataset(str(local), source.config, cache_dir=str(cache), verification_mode="no_checks")
        else:
            checks = None if source.verify else "no_checks"
            load = functools.partial(
                load_dataset, source.repo, source.config, revision=source.revision, cache_dir=str(cache),
                verification_mode=checks,
            )  # fmt: skip
            found = retrying(load, source.repo, policy or RetryPolicy())
    except (OSError, ValueError, RuntimeError) as error:
        reason = error_text(error)
        raise UserError(f"{local or source.repo}: cannot be loaded ({reason})") from error
    if source.splits is None:
        return {split: encoded(rows) for split, rows in found.items()}
    missing = [split for split in source.splits if split not in found]
    if missing:
        where = str(local or f"{source.repo}@{source.revision}")
        raise UserError(f"{where} has no split {', '.join(missing)}; it has {', '.join(found)}")
    parts = [found[split] for split in source.splits]
    # splits may differ in features nobody uses, so that only equal columns could be concatenated
    common = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
    return {"train": concatenate_datasets([encoded(part.select_columns(common)) for part in parts])}
