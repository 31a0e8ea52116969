"""From a recipe's sources to a tree that its functions read: given files first, the network for what is missing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.corpus.collect.download import PARTIAL, fetch_all, remote_size
from src.corpus.collect.hub import open_rows
from src.corpus.collect.unpack import unpack
from src.corpus.recipe import Files, HubFiles, HubRows, Inputs, Options, Recipe

_log = get_logger(__name__)
_SPACE_FACTOR = 3
"""Downloads, what they unpack to, and the saved set."""


@dataclass(frozen=True)
class Workspace:
    """Folders of one corpus while it is made, below its raw folder; ``given`` is the user's copy of upstream files."""

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


def given_folder(from_dir: Path | None, name: str) -> Path | None:
    """``DIR/NAME`` if there is such a folder, else ``DIR`` itself. Raises :class:`UserError` if DIR is missing."""
    if from_dir is None:
        return None
    if not from_dir.is_dir():
        raise UserError(f"--from-dir {from_dir} is no folder")
    return from_dir / name if (from_dir / name).is_dir() else from_dir


def gather(recipe: Recipe, work: Workspace, options: Options, check_space: bool = True, keep: bool = False) -> Inputs:
    """Fetch and unpack what is neither given nor there already, and open the Hub rows.

    Archives are removed once unpacked unless ``keep``. Raises :class:`UserError` before the first byte if the disk
    has too little room.
    """
    missing = [source for source in recipe.sources if isinstance(source, Files) and not _there(source, work)]
    if check_space:
        _check_space(recipe, missing, work)
    for source in missing:
        _provide(source, work, keep)
    rows: dict[str, Any] = {}
    for source in recipe.sources:
        if isinstance(source, HubFiles) and not any((root / source.yields).exists() for root in work.roots):
            _snapshot(source, work)
        if isinstance(source, HubRows):
            rows = open_rows(source, _local_rows(work), work.folder / "hub", recipe.audio)
    return Inputs(work.roots, options, rows)


def _local_rows(work: Workspace) -> Path | None:
    """The given folder, or its part ``rows`` where a set has rows and archives."""
    if work.given is None:
        return None
    return work.given / "rows" if (work.given / "rows").is_dir() else work.given


def _there(source: Files, work: Workspace) -> bool:
    done = work.tree / f".{source.remotes[0].name}.unpacked"
    return done.exists() or (work.given is not None and (work.given / source.yields).exists())


def _provide(source: Files, work: Workspace, keep: bool) -> None:
    """Fetch one source and unpack it; a mark in the tree says that it is whole there."""
    named = [work.given / remote.name for remote in source.remotes] if work.given else []
    is_given = bool(named) and all(path.is_file() for path in named)
    paths = named if is_given else fetch_all(source.remotes, work.downloads)
    target = work.tree / source.into
    unpack(paths, source.kind, target)
    for inner in source.inner:
        unpack([work.tree / inner], "tar", (work.tree / inner).parent)
        (work.tree / inner).unlink()
    if not (work.tree / source.yields).exists():
        raise UserError(f"{source.remotes[0].name} holds no {source.yields}; is it the right file?")
    (work.tree / f".{source.remotes[0].name}.unpacked").touch()
    if not is_given and not keep:
        for path in paths:
            path.unlink()


def _snapshot(source: HubFiles, work: Workspace) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            source.repo,
            repo_type="dataset",
            revision=source.revision,
            allow_patterns=list(source.patterns) or None,
            local_dir=str(work.tree),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{source.repo} cannot be fetched from the Hub ({error}); or use --from-dir") from error


def _check_space(recipe: Recipe, missing: list[Files], work: Workspace) -> None:
    """Compare what is still to come with the room on the disk; sizes that no server tells count as nothing."""
    needed = 0
    for source in missing:
        for remote in source.remotes:
            given = work.given / remote.name if work.given else None
            if given is not None and given.is_file():
                needed += given.stat().st_size * (_SPACE_FACTOR - 1)
            elif not (work.downloads / remote.name).is_file():
                have = work.downloads / (remote.name + PARTIAL)
                size = remote_size(remote.url) or 0
                needed += size * _SPACE_FACTOR - (have.stat().st_size if have.is_file() else 0)
    if any(isinstance(source, (HubRows, HubFiles)) for source in recipe.sources) and work.given is None:
        needed += sum(_hub_size(source) for source in recipe.sources) * _SPACE_FACTOR
    elif not missing and work.given is not None:
        needed += sum(path.stat().st_size for path in work.given.rglob("*") if path.is_file())
    free = shutil.disk_usage(_existing(work.folder)).free
    if needed > free:
        raise UserError(
            f"{recipe.name} needs about {needed / 1e9:.1f} GB in {work.folder}, {free / 1e9:.1f} GB are free; "
            "make room, set ALARM_DATA_ROOT to another disk, or pass --ignore-space"
        )


def _hub_size(source: object) -> int:
    from huggingface_hub import HfApi

    if not isinstance(source, (HubRows, HubFiles)):
        return 0
    try:
        files = HfApi().dataset_info(source.repo, revision=source.revision, files_metadata=True).siblings or []
    except Exception as error:  # no network, no access: the download itself will say so, and better
        _log.info("the size of %s is not known (%s)", source.repo, type(error).__name__)
        return 0
    return sum(file.size or 0 for file in files)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
