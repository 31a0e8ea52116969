"""Description of one corpus: its sources, how their files become rows, which columns are saved.

Recipes hold facts and small functions; :mod:`src.corpus.collect` does the work, the same for every corpus.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from src.audio.roots import audio_roots, roots_of
from src.common.errors import UserError
from src.corpus.description import SpeakerSegment, describe_audio
from src.download.sources import DriveFolderFile, WebFile
from src.download.unpack import is_archive

TextType = Literal["speech", "caption", "none"]
IDS = ("unique_id_1", "unique_id_2")
UpstreamRecord = Mapping[str, Any]


@dataclass(frozen=True)
class Files:
    """Files that become a part of the corpus's tree: an archive (in one or several parts) or a plain file.

    ``yields`` is a path in the tree that is there once they are unpacked; ``into`` the folder they are unpacked in.
    ``kind``: ``zip`` and ``tar`` may come in parts that are cut anywhere, ``split_zip`` in zip's own
    volumes. ``inner`` names archives (by path in the tree) inside the unpacked ones that are unpacked as well.
    """

    parts: tuple[WebFile | DriveFolderFile, ...]
    yields: str
    kind: Literal["file", "archive", "zip", "split_zip", "tar"] = "archive"
    into: str = ""
    inner: tuple[str, ...] = ()


def web(url: str, yields: str, name: str = "", into: str = "", inner: tuple[str, ...] = ()) -> Files:
    """One file of the web, kept as ``name`` (default: the last part of the URL without its query)."""
    name = name or url.split("?")[0].rstrip("/").split("/")[-1]
    return Files((WebFile(url, name),), yields, "archive" if is_archive(Path(name)) else "file", into, inner)


@dataclass(frozen=True)
class HubRows:
    """Rows of a Hugging Face data set at a pinned revision; ``splits`` ``None`` stands for all, kept by name.

    ``verify`` false leaves out the library's check of split sizes, for sets whose card is wrong about them.
    """

    repo: str
    revision: str
    splits: tuple[str, ...] | None = ("train",)
    config: str | None = None
    verify: bool = True


@dataclass(frozen=True)
class HubFiles:
    """A data set repository at a pinned revision, laid out in the tree as there; ``yields`` is a path in it."""

    repo: str
    revision: str
    yields: str


RecipeSource = Files | HubRows | HubFiles


@dataclass(frozen=True)
class Options:
    """How a corpus is collected.

    ``as_published`` gives the rows of the released corpora where a repair would change them; ``limit`` takes only
    the first jobs (files, Hub rows, recordings, pairs, meetings or dialogues), for a trial.
    """

    as_published: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Inputs:
    """Inputs of a recipe: folders with the upstream layout, the options, and opened Hub rows by split."""

    roots: tuple[Path, ...]
    options: Options = Options()
    rows: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def allowed(self) -> Mapping[str, tuple[Path, ...]]:
        """By split, the folders in which its rows may name files: the copy they are read from, and the caches."""
        # Once for all rows: roots_of resolves every Arrow file of a set, of which AudioSet has more than a thousand.
        caches = audio_roots(*self.roots, *(root.parent / "hub" for root in self.roots[:1]))
        return {split: (*roots_of(rows), *caches) for split, rows in self.rows.items()}

    def find(self, relative: str) -> Path | None:
        """The file or folder in the first root that has it."""
        return next((root / relative for root in self.roots if (root / relative).exists()), None)

    def path(self, relative: str) -> Path:
        """Like :meth:`find`; raises :class:`UserError` naming all places if it is nowhere."""
        found = self.find(relative)
        if found is None:
            places = ", ".join(str(root) for root in self.roots)
            raise UserError(f"{relative} is in none of {places}; the download is not complete, or laid out otherwise")
        return found


@dataclass(frozen=True)
class Stored:
    """Audio as it will be saved: all bytes of a ``file``, ``data`` that was encoded again, or the cell of a Hub row.

    ``name`` is the file name stored with the bytes.
    """

    name: str
    file: Path | None = None
    data: bytes | None = None
    hub_row: tuple[str, int] | None = None
    size: int = 0


@dataclass(frozen=True)
class Draft:
    """A row before its audio is decoded. ``hidden`` are description keys that this row leaves out."""

    unique_id_1: str
    unique_id_2: str
    text: str
    fields: UpstreamRecord
    file: Path | None = None
    hidden: Collection[str] = frozenset()


@dataclass(frozen=True)
class CorpusRow:
    """A finished row; ``fields`` are all columns besides the audio and the index."""

    fields: UpstreamRecord
    audio: Stored
    split: str = "train"


@dataclass(frozen=True)
class Dropped:
    """A row, or all rows of a job, that could not be used. ``error`` false: the recipe's own filter."""

    unique_id_1: str
    unique_id_2: str
    reason: str
    error: bool = True


@dataclass(frozen=True)
class Work:
    """How a corpus's files become rows.

    ``jobs`` yields picklable jobs in a fixed order; each is passed to ``make`` in a worker process, which decodes and
    yields rows. The rows of ``per_batch`` jobs are stored together.
    """

    jobs: Callable[[Inputs], Iterable[Any]]
    make: Callable[[Any, Inputs, Recipe], Iterator[CorpusRow | Dropped]]
    per_batch: int = 1000


@dataclass(frozen=True)
class Recipe:
    """One corpus.

    Attributes:
        text_type: ``none`` for instruction sets, which have no description and no duration.
        description: keys printed after the duration, in order.
        columns: all saved columns in order; strings unless ``types`` says otherwise.
        rows, hours: of the published corpus.
        audio: column of Hub rows that holds the audio, to be left encoded.
        licence: only where certain. access: permission to ask for before downloading.
        gb_per_hour: estimate for the saved audio, where its form is known.
        repairs: differences from the published rows unless ``as_published``.
        settings: further choices that the rows depend on; a finished set with others is not taken for this one.
    """

    name: str
    title: str
    sources: tuple[RecipeSource, ...]
    work: Work
    text_type: TextType
    columns: tuple[str, ...]
    description: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    hours: float | None = None
    licence: str = "see source"
    access: str = ""
    gb_per_hour: float | None = None
    repairs: tuple[str, ...] = ()
    audio: str = "audio"
    module: str = ""
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Name or import path that workers load the recipe by."""
        return self.module or self.name

    def type_of(self, column: str) -> str:
        """Arrow type of a saved column."""
        common = {"duration": "float64", "dataset_index": "int64"}
        return self.types.get(column, common.get(column, "string"))


WAV_16, WAV_22, WAV_44, WAV_48 = (rate * 2 * 3600 / 1e9 for rate in (16000, 22050, 44100, 48000))
"""Gigabytes of an hour of 16-bit mono sound by its samples per second."""


def row_fields(
    recipe: Recipe,
    draft: Draft,
    duration: float | None,
    texts: Sequence[str] | None = None,
    segments: Sequence[SpeakerSegment] = (),
) -> dict[str, Any]:
    """All columns of a row but audio and index, the description among them.

    With ``texts`` and ``segments`` the description lists them; the text column holds ``draft.text``. Instruction
    sets have neither description nor ``duration``.
    """
    ids = {"unique_id_1": draft.unique_id_1, "unique_id_2": draft.unique_id_2}
    if recipe.text_type == "none" or duration is None:
        return {**draft.fields, **ids}
    shown = {key: draft.fields[key] for key in recipe.description if key not in draft.hidden}
    body = draft.text if texts is None else texts
    description = describe_audio(duration, body, recipe.text_type, shown, segments, longest=True)
    made = {"text": draft.text, "duration": duration, "audio_description": description}
    return {**draft.fields, **made, **ids}


def columns(names: str) -> tuple[str, ...]:
    """Column names from one text, separated by `` | ``."""
    return tuple(name.strip() for name in names.split("|"))
