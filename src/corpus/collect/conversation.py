"""Utterances of several speakers become chunks with one description: shared by every conversational corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.corpus.collect.audio import RATE, Samples, encode_wav
from src.corpus.description import Segment
from src.corpus.recipe import Draft, Recipe, Row, Stored, row_fields

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
GENDERS = tuple(f"the {ordinal} speaker's gender" for ordinal in ORDINALS)
COUNT = "the number of speakers"


@dataclass(frozen=True)
class Utterance:
    """One utterance: ``key`` is its part of the chunk's id, times in seconds, ``samples (n,)`` at 16 kHz.

    ``note`` stands behind the speaker in the description, e.g. ``emotion: joy``.
    """

    key: str
    speaker: str
    text: str
    start: float
    end: float
    samples: Samples
    note: str = ""


def chunks(utterances: Iterable[Utterance | None], limit: float) -> Iterator[list[Utterance]]:
    """Runs of utterances, each closed as soon as it is ``limit`` seconds long.

    ``None`` (an utterance that could not be decoded) closes the open chunk too. Chunks without length are left out.
    """
    open_chunk: list[Utterance] = []
    for utterance in utterances:
        if utterance is not None:
            open_chunk.append(utterance)
        long_enough = bool(open_chunk) and open_chunk[-1].end - open_chunk[0].start >= limit
        if utterance is None or long_enough:
            yield from _closed(open_chunk)
            open_chunk = []
    yield from _closed(open_chunk)


def _closed(chunk: list[Utterance]) -> list[list[Utterance]]:
    return [chunk] if chunk and chunk[-1].end != chunk[0].start else []


def back_to_back(parts: Iterable[Utterance | None]) -> Iterator[Utterance | None]:
    """Times of utterances that are played one after the other without gaps; those they had do not count."""
    now = 0.0
    for part in parts:
        if part is None:
            yield None
            continue
        end = now + part.samples.size / RATE
        yield Utterance(part.key, part.speaker, part.text, now, end, part.samples, part.note)
        now = end


def speaker_ordinals(chunk: Sequence[Utterance]) -> dict[str, str]:
    """Speaker -> ordinal, by first appearance in the chunk. Raises :class:`UserError` from the eleventh on."""
    speakers = list(dict.fromkeys(utterance.speaker for utterance in chunk))
    if len(speakers) > len(ORDINALS):
        raise UserError(f"{len(speakers)} speakers in one chunk, {len(ORDINALS)} can be told apart")
    return dict(zip(speakers, ORDINALS, strict=False))


def segments_of(chunk: Sequence[Utterance]) -> list[Segment]:
    """Start and end from the chunk's beginning on, and the speaker's label."""
    zero, ordinals = chunk[0].start, speaker_ordinals(chunk)
    return [
        (each.start - zero, each.end - zero, f"the {ordinals[each.speaker]} speaker{each.note and ', ' + each.note}")
        for each in chunk
    ]


def concatenated(chunk: Sequence[Utterance]) -> Samples:
    """The utterances one after the other."""
    return np.concatenate([utterance.samples for utterance in chunk])


def on_timeline(chunk: Sequence[Utterance], overwrite: bool) -> Samples:
    """The utterances at their places in time. Overlaps are summed, or with ``overwrite`` only the later is heard."""
    zero = chunk[0].start
    places = [round((utterance.start - zero) * RATE) for utterance in chunk]
    last = round(max(utterance.end - zero for utterance in chunk) * RATE)
    size = max([last, *(place + each.samples.size for place, each in zip(places, chunk, strict=True))])
    mixed = np.zeros(size, np.float32)
    for place, utterance in zip(places, chunk, strict=True):
        part = mixed[place : place + utterance.samples.size]
        part[:] = utterance.samples if overwrite else part + utterance.samples
    return mixed


def chunk_row(
    recipe: Recipe,
    ids: tuple[str, str],
    chunk: Sequence[Utterance],
    samples: Samples,
    own: Mapping[str, Any],
    last_end: bool = False,
) -> Row:
    """The row of one chunk.

    Args:
        own: the corpus's own columns; comments follow ``recipe.description``, empty ones are left out.
        last_end: state the end of the last utterance, as published, where an earlier one may end later.
    """
    segments = segments_of(chunk)
    duration = segments[-1][1] if last_end else max(end for _, end, _ in segments)
    texts = [utterance.text for utterance in chunk]
    fields = {**own, COUNT: len({utterance.speaker for utterance in chunk})}
    hidden = frozenset(key for key in recipe.description if fields[key] == "")
    draft = Draft(*ids, ";".join(texts), fields, hidden=hidden)
    data = encode_wav(samples)
    stored = Stored(f"{ids[1]}.wav", data=data, size=len(data))
    return Row(row_fields(recipe, draft, duration, texts, segments), stored)


def gender_columns(chunk: Sequence[Utterance], gender_of: Mapping[str, str]) -> dict[str, str]:
    """All ten gender columns, empty for speakers that are not there."""
    empty = dict.fromkeys(GENDERS, "")
    known = speaker_ordinals(chunk).items()
    return {**empty, **{f"the {ordinal} speaker's gender": gender_of[speaker] for speaker, ordinal in known}}
