"""LibriMix: two or three readers at once, mixed from LibriSpeech without noise (16 kHz, as long as the longest).

Mixing and signal-to-noise ratios follow
https://github.com/JorisCos/LibriMix/blob/eac7cf0b24ebadd50e7167c7be98c2366b1be0c4/scripts/create_librimix_from_metadata.py.
The clean mixtures need no noise, so that WHAM is not fetched.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.common.errors import UserError
from src.corpus.description import SpeakerSegment
from src.corpus.recipe import WAV_16, CorpusRow, Dropped, Files, Inputs, Recipe, Work, columns, web
from src.corpus.recipes.librispeech import ROOT, archive, transcripts
from src.corpus.rows.audio import RATE, Samples, read_mono
from src.corpus.rows.conversation import COUNT, ORDINALS, spoken_row
from src.corpus.rows.make import each_row
from src.corpus.rows.tables import entry, filled, number, speaker_table, table
from src.download.sources import github_file

COMMIT = "eac7cf0b24ebadd50e7167c7be98c2366b1be0c4"
SUBSETS = {"train-100_mix_clean": "train-clean-100", "train-360_mix_clean": "train-clean-360"}
SPEAKERS = tuple(f"the {ordinal} speaker" for ordinal in ORDINALS[:3])
KEYS = tuple(f"{speaker}'s {what}" for speaker in SPEAKERS for what in ("gender", "mixture snr"))
TABLES = {
    (partition, count): f"Libri{count}Mix/libri{count}mix_{subset}.csv"
    for count in (2, 3)
    for partition, subset in SUBSETS.items()
}
MixedSource = tuple[Path, float, str, str]
"""File, gain, text and gender of a speaker."""
LibriMixture = tuple[str, str, tuple[MixedSource, ...]]
"""Partition, id, sources."""


def jobs(inputs: Inputs) -> Iterator[LibriMixture | Dropped]:
    """The mixtures of all tables."""
    genders = speaker_table(inputs.path(f"{ROOT}/SPEAKERS.TXT"), as_published=inputs.options.as_published)
    for partition, subset in SUBSETS.items():
        found = transcripts(inputs.path(f"{ROOT}/{subset}"))
        texts = {each[0].stem: each[1] for each in found if not isinstance(each, Dropped)}
        for count in (2, 3):
            yield from _of_table(inputs, partition, count, texts, genders)


def _of_table(
    inputs: Inputs, partition: str, count: int, texts: dict[str, str], genders: dict[str, str]
) -> Iterator[LibriMixture | Dropped]:
    names = [(f"source_{place}_path", f"source_{place}_gain") for place in range(1, count + 1)]

    def mixture(row: dict[str, str]) -> Iterator[LibriMixture]:
        found: list[MixedSource] = []
        for path, gain in names:
            file = inputs.path(ROOT) / row[path]
            text = entry(texts, file.stem, "the transcripts")
            gender = entry(genders, file.stem.split("-")[0], "SPEAKERS.TXT")
            found.append((file, number(row[gain], gain), text, gender))
        yield partition, filled(row["mixture_ID"], "mixture_ID"), tuple(found)

    rows = table(
        inputs.path(f"metadata/{TABLES[partition, count]}"),
        needs=("mixture_ID", *(name for pair in names for name in pair)),
    )
    yield from each_row(rows, lambda row: (partition, row["mixture_ID"]), mixture)


def mix(samples: list[Samples], gains: list[float]) -> tuple[Samples, list[float]]:
    """The sum of all sources, zero-padded at the end, ``(n,)``, and the ratio of each to the rest in decibels."""
    longest = max(each.size for each in samples)
    padded = [
        np.pad(each * np.float32(gain), (0, longest - each.size)) for each, gain in zip(samples, gains, strict=True)
    ]
    mixed: Samples = functools.reduce(np.add, padded)
    powers = [(float(np.mean(each**2)), float(np.mean((mixed - each) ** 2))) for each in padded]
    # both offsets are those of the mixing script's `snr_xy`; the second one keeps a silent source finite
    return mixed, [10 * math.log10(signal / (rest + 1e-10) + 1e-10) for signal, rest in powers]


def make(job: LibriMixture, inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """The row of one mixture."""
    import soundfile

    partition, mixture, sources = job
    samples = [read_mono(path) for path, _, _, _ in sources]
    mixed, ratios = mix(samples, [gain for _, gain, _, _ in sources])
    seconds = [each.size / RATE for each in samples]
    speakers = dict.fromkeys(path.stem.split("-")[0] for path, _, _, _ in sources)
    if len(speakers) != len(sources):
        raise UserError(f"{mixture}: a speaker is mixed with itself")
    fields: dict[str, object] = {key: "" if key.endswith("gender") else 0.0 for key in KEYS}
    for speaker, ratio, source in zip(SPEAKERS, ratios, sources, strict=False):
        fields |= {f"{speaker}'s gender": source[3], f"{speaker}'s mixture snr": round(ratio, 3)}
    fields |= {COUNT: len(speakers), "mixture_id": mixture, "partition_id": partition}
    segments: list[SpeakerSegment] = [(0.0, end, speaker) for end, speaker in zip(seconds, SPEAKERS, strict=False)]
    duration = seconds[-1] if inputs.options.as_published else max(seconds)
    hidden = frozenset(key for key in KEYS if not fields[key.split("'s ")[0] + "'s gender"])
    texts = [text for _, _, text, _ in sources]
    # Not by `encode_wav`: the mixing script has libsndfile round to 16 bits in its own way.
    soundfile.write(wav := io.BytesIO(), mixed, RATE, format="WAV")
    yield spoken_row(recipe, (partition, mixture), texts, segments, duration, fields, wav.getvalue(), hidden)


RECIPE = Recipe(
    name="librimix",
    title="LibriMix (2 and 3 speakers, clean)",
    sources=(
        *(web(archive(subset), f"{ROOT}/{subset}") for subset in SUBSETS.values()),
        *(
            Files((github_file("JorisCos/LibriMix", COMMIT, path),), path, "file", into=path.rpartition("/")[0])
            for path in (f"metadata/{name}" for name in TABLES.values())
        ),
    ),
    work=Work(jobs, make, per_batch=200),
    text_type="speech",
    description=(*KEYS, COUNT),
    columns=columns(
        f"audio_description | {' | '.join(KEYS)} | {COUNT} | duration | text | audio | mixture_id | unique_id_2 | "
        "partition_id | unique_id_1 | dataset_index"
    ),
    types={COUNT: "int64", **{key: "float64" for key in KEYS if key.endswith("snr")}},
    rows=107900,
    hours=385.01,
    gb_per_hour=WAV_16,
    licence="CC BY 4.0",
    repairs=(
        "the stated duration is that of the mixture (published: of the last speaker)",
        "speakers' comments stand in the order of the speakers (published: in any order)",
        "a speaker of unknown gender is left out (published: female)",
    ),
)
