"""VoxCeleb 1: pairs of recordings of the same or of two speakers, one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.common.errors import UserError
from src.common.log import get_logger
from src.common.paths import ASSETS, data_root, raw_dir
from src.corpus.recipe import WAV_16, CorpusRow, Dropped, Files, Inputs, Recipe, Work, columns, web
from src.corpus.rows.audio import RATE, read_mono
from src.corpus.rows.conversation import COUNT, spoken_row
from src.corpus.rows.make import each_row
from src.corpus.rows.tables import MISSING, entry, files, folders, lines, table
from src.download.sources import WebFile

_log = get_logger(__name__)
SEED, PER_TYPE = 123, 50
PAIR_LISTS = ("voxceleb_train_list.txt", "train_list.txt")
SAME = "the speakers are the same"
FIRST, SECOND = "the first speaker", "the second speaker"
KEYS = tuple(f"{speaker}'s {what}" for what in ("gender", "nationality") for speaker in (FIRST, SECOND))
PARTS = {
    "a": "e395d020928bc15670b570a21695ed96",
    "b": "bbfaaccefab65d82b21903e81a8a8020",
    "c": "017d579a2a96a077f40042ec33e51512",
    "d": "7bb1e9f70fddc7a678fa998ea8b3ba19",
}
URL = "https://huggingface.co/datasets/ProgramComputer/voxceleb/resolve/23dcdd6d2b485d8b9c29e6c9ffb0b53486c68699/vox1"
Speaker = tuple[str, str]
"""Gender (``m`` or ``f``) and nationality."""
Pair = tuple[str, str, Path, Speaker, Speaker]
"""Two files, their root and speakers."""


def draw_pairs(
    speakers: Mapping[str, Speaker], paths: Mapping[str, Sequence[str]], with_itself: bool
) -> Iterator[tuple[str, str]]:
    """Up to 50 pairs of each speaker with itself, 50 with men and 50 with women, drawn with seed 123.

    ``with_itself``: a file may be paired with itself, as published; otherwise with another of the speaker.
    """
    draw = random.Random(SEED)  # one generator for all pairs: another order of the draws gives other pairs
    by_gender = {gender: sorted(name for name in speakers if speakers[name][0] == gender) for gender in "mf"}
    for name in speakers:
        own = paths[name]
        count = min(PER_TYPE, len(own))
        for one, two in zip(draw.sample(own, count), draw.sample(own, count), strict=True):
            if one != two or with_itself:
                yield one, two
            elif len(own) > 1:
                yield one, own[(own.index(one) + 1) % len(own)]
        for gender in "mf":
            others = [other for other in by_gender[gender] if other != name]
            for other in draw.sample(others, min(PER_TYPE, len(others))):
                yield draw.choice(own), draw.choice(paths[other])


def jobs(inputs: Inputs) -> Iterator[Pair | Dropped]:
    """Pairs of files: those of the published list (:func:`find_pairs`) if it is there, else drawn again."""
    meta = table(inputs.path("meta.csv"), "\t", needs=("VoxCeleb1 ID", "Gender", "Nationality", "Set"))
    speakers = {row["VoxCeleb1 ID"]: (row["Gender"], row["Nationality"]) for row in meta if row["Set"] == "dev"}
    root = inputs.path("wav")
    given = find_pairs(inputs)
    if given:
        _log.info("voxceleb1: pairs of %s", given)

    def pair(names: Sequence[str]) -> Iterator[Pair]:
        one, two = (name.strip() for name in names)
        first, second = (entry(speakers, name.split("/")[0], "meta.csv") for name in (one, two))
        yield one, two, root, first, second

    # a pair that is listed twice makes two rows, of which the first is kept unless as published
    pairs: Iterable[Sequence[str]]
    if given:
        pairs = (line.split("\t") for line in lines(given))
    else:
        there = {
            folder.name: [
                wav.relative_to(root).as_posix() for video in folders(folder) for wav in files(video, ".wav")
            ]
            for folder in folders(root)
        }
        known = {name: speaker for name, speaker in speakers.items() if there.get(name)}
        pairs = draw_pairs(known, there, with_itself=inputs.options.as_published)
    yield from each_row(pairs, lambda names: (names[0], "".join(names[1:2])), pair)


def find_pairs(inputs: Inputs) -> Path | None:
    """The list of pairs, one a line, a tab between both files: under its released name or the program's own.

    Looked for in ``--from-dir``, next to the downloads, in the corpus's folder, in the data root, the folder above it
    and the repository's ``assets``.
    """
    folders = (raw_dir("voxceleb1"), data_root(), data_root().parent, ASSETS)
    for name in PAIR_LISTS:
        found = inputs.find(name) or next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found:
            return found
    return None


def make(job: Pair, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """The row of one pair."""
    as_published = inputs.options.as_published
    one, two, root, *speakers = job
    samples = [read_mono(root / path) for path in (one, two)]
    middle, end = samples[0].size / RATE, (samples[0].size + samples[1].size) / RATE
    same = one.split("/")[0] == two.split("/")[0]
    one_speaker = same and not as_published
    fields: dict[str, object] = {SAME: "Yes" if same else "No", COUNT: 1 if one_speaker else 2}
    for speaker, (gender, nationality) in zip((FIRST, SECOND), speakers, strict=True):
        if nationality in MISSING:
            nationality = "nan" if as_published else ""
        if gender not in ("m", "f") and not as_published:
            raise UserError(f"the gender of {speaker} is {gender!r}, expected m or f")
        fields[f"{speaker}'s gender"] = "Male" if gender == "m" else "Female"
        fields[f"{speaker}'s nationality"] = nationality
    if one_speaker:
        fields |= {f"{SECOND}'s gender": "", f"{SECOND}'s nationality": ""}
    fields |= {"speaker1_file": one, "speaker2_file": two}
    segments = [(0.0, middle, FIRST), (middle, end, FIRST if one_speaker else SECOND)]
    yield spoken_row(recipe, (one, two), ["Speech", "Speech"], segments, end, fields, np.concatenate(samples))


RECIPE = Recipe(
    name="voxceleb1",
    title="VoxCeleb 1 (pairs)",
    sources=(
        Files(
            tuple(
                WebFile(f"{URL}/vox1_dev_wav_parta{part}", f"vox1_dev_wav_parta{part}", f"md5:{md5}")
                for part, md5 in PARTS.items()
            ),
            "wav",
            "zip",
        ),
        web("https://openslr.trmal.net/resources/49/vox1_meta.csv", "meta.csv", name="meta.csv"),
    ),  # fmt: skip
    work=Work(jobs, make, per_batch=500),
    text_type="caption",
    description=(SAME, *KEYS, COUNT),
    columns=columns(
        f"audio_description | duration | text | {SAME} | {' | '.join(KEYS)} | {COUNT} | audio | speaker1_file | "
        "unique_id_1 | speaker2_file | unique_id_2 | dataset_index"
    ),
    types={COUNT: "int64"},
    rows=181502,
    hours=819.24,
    gb_per_hour=WAV_16,
    access="ask first at https://mm.kaist.ac.kr/datasets/voxceleb/index.html",
    repairs=(
        "two recordings of one speaker are called 1 speaker, the first (published: 2 speakers)",
        "a recording is not paired with itself, unless the given list does",
        "an unknown nationality is left out (published: `nan`)",
        "files are drawn from sorted listings: the same pairs on every machine (published: as the file system lists "
        "them; the released `voxceleb_train_list.txt` gives the published pairs)",
        "a speaker of unknown gender is left out (published: female)",
    ),
)
