"""FMA: free music with genres and tags, training split of the large subset."""

from __future__ import annotations

import ast
import csv
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from src.common.errors import UserError
from src.corpus.recipe import WAV_16, CorpusRow, Draft, Dropped, Inputs, Recipe, Work, columns, row_fields, web
from src.corpus.rows.audio import RATE, read_mono
from src.corpus.rows.make import each_row, encoded
from src.corpus.rows.tables import MISSING, entry, table

OPTIONAL = ("album title", "language code", "album tags", "artist tags", "song tags")
TAGGED = {"album": "album", "artist": "artist", "song": "track"}
SUBSETS = ("small", "medium", "large")


def track_rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of the table by ``group.name`` and ``track_id``; two lines hold the names, the third only the index's."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        names = [f"{one}.{two}" for one, two in zip(next(reader), next(reader), strict=True)]
        names[0] = "track_id"
        for row in reader:
            if row and row[0] != names[0]:
                yield dict(itertools.zip_longest(names, row[: len(names)], fillvalue=""))


def genre_chains(path: Path, by_title: bool) -> dict[int, str]:
    """Title of each genre and of all it is a part of, nearest first; without those whose chain has no end.

    ``by_title``: genres of the same title all have the chain of the last, as published.
    """
    rows = {row["genre_id"]: row for row in table(path, needs=("genre_id", "parent", "title"))}
    chains = {}
    for name, row in rows.items():
        chain, parent = [row["title"]], row["parent"]
        while parent in rows and len(chain) <= len(rows):
            chain.append(rows[parent]["title"])
            parent = rows[parent]["parent"]
        if parent == "0" and name.isdecimal() and all(chain):
            chains[int(name)] = chain
    last = {chain[0]: chain for chain in chains.values()}
    return {number: "/".join(last[chain[0]] if by_title else chain) for number, chain in chains.items()}


def about_track(row: Mapping[str, str], chains: Mapping[int, str], as_published: bool) -> Draft:
    """Texts of one track. Blank tags are left out; the published rows have them, and ``['']`` as an empty clause."""

    def text(name: str, missing: str) -> str:
        return missing if row[name] in MISSING else row[name]

    def tags(name: str) -> list[str]:
        found = ast.literal_eval(row[name] or "[]")
        if not isinstance(found, list):
            raise UserError(f"track {row['track_id']}: {name} is {row[name]!r}, expected a list")
        return found

    name = f"{int(row['track_id']):06d}"
    listed = {kind: tags(f"{key}.tags") for kind, key in TAGGED.items()}
    if not as_published:
        listed = {kind: [tag for tag in found if str(tag).strip()] for kind, found in listed.items()}
    artist, title = text("artist.name", "nan"), text("track.title", "nan")
    fields = {
        "genres": " and ".join(entry(chains, int(genre), "genres.csv") for genre in tags("track.genres")),
        "artist name": artist,
        "song title": title,
        "album title": text("album.title", ""),
        "language code": text("track.language_code", ""),
        **{f"{kind} tags": "/".join(found) for kind, found in listed.items()},
        "track_id": name,
        "full song name": f"{artist} - {title}",
    }
    shown = {f"{kind} tags" for kind, found in listed.items() if found}
    # A tuple: finished batches are recognised by their pickled jobs, and sets of texts differ in order by process.
    hidden = tuple(key for key in OPTIONAL if not fields[key] and key not in shown)
    return Draft(name, fields["full song name"], "Music", fields, hidden=hidden)


def jobs(inputs: Inputs) -> Iterator[tuple[Draft, Path] | Dropped]:
    """Tracks of the training split that are in the large subset, with their files."""
    chains = genre_chains(inputs.path("fma_metadata/genres.csv"), inputs.options.as_published)
    audio = inputs.path("fma_large")

    def track(row: dict[str, str]) -> Iterator[tuple[Draft, Path]]:
        draft = about_track(row, chains, inputs.options.as_published)
        yield draft, audio / draft.unique_id_1[:3] / f"{draft.unique_id_1}.mp3"

    rows = track_rows(inputs.path("fma_metadata/tracks.csv"))
    wanted = (row for row in rows if row["set.subset"] in SUBSETS and row["set.split"] == "training")
    yield from each_row(wanted, lambda row: (row["track_id"], row["track.title"]), track)


def make(job: tuple[Draft, Path], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """The track as mono WAV at 16 kHz; about 150 files cannot be decoded (https://github.com/mdeff/fma/issues/49)."""
    draft, path = job
    samples = read_mono(path)
    yield CorpusRow(row_fields(recipe, draft, samples.size / RATE), encoded(f"{draft.unique_id_1}.wav", samples))


RECIPE = Recipe(
    name="fma",
    title="FMA (large, training)",
    sources=(
        web("https://os.unil.cloud.switch.ch/fma/fma_large.zip", "fma_large"),
        web("https://os.unil.cloud.switch.ch/fma/fma_metadata.zip", "fma_metadata"),
    ),
    work=Work(jobs, make, per_batch=200),
    text_type="caption",
    description=("genres", "artist name", "song title", *OPTIONAL),
    columns=columns(
        "audio_description | duration | text | genres | artist name | song title | album title | "
        "language code | artist tags | album tags | song tags | audio | track_id | unique_id_1 | "
        "full song name | unique_id_2 | dataset_index"
    ),
    rows=84213,
    hours=695.47,
    gb_per_hour=WAV_16,
    licence="by track",
    repairs=(
        "a genre's chain follows its id (published: its title, which two genres may share)",
        "empty tags are left out (published: an empty clause where all tags of a kind are)",
    ),
)
