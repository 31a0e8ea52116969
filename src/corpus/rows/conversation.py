"""Conversations: utterances of several speakers become chunks, each a row with one description."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from src.common.errors import UserError
from src.corpus.description import SpeakerSegment
from src.corpus.recipe import WAV_16, CorpusRow, Draft, Dropped, Options, Recipe, columns, row_fields
from src.corpus.rows.audio import RATE, Samples
from src.corpus.rows.make import each_row, encoded

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
GENDERS = tuple(f"the {ordinal} speaker's gender" for ordinal in ORDINALS)
COUNT = "the number of speakers"
MEETING_LIMIT = 40.0
"""Seconds from which on a chunk of a meeting is closed."""
LONGEST = 3600.0
"""Seconds of a chunk; one that is longer has wrong times."""


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


def chunks(
    utterances: Iterable[Utterance | Dropped], limit: float, back_to_back: bool = False
) -> Iterator[list[Utterance] | Dropped]:
    """Runs of utterances, each closed as soon as it is ``limit`` seconds long; those without length are left out.

    An utterance that could not be used closes the open run, and is passed on. ``back_to_back``: they are played one
    after the other without gaps, so the times they had do not count.
    """
    run: list[Utterance] = []
    for utterance in utterances:
        if isinstance(utterance, Dropped):
            yield from _closed(run)
            yield utterance
            run = []
            continue
        if back_to_back:
            # The clock of every run starts at 0: differences of a dialogue's times are not exact, and may be rounded
            # to another second.
            start = run[-1].end if run else 0.0
            utterance = replace(utterance, start=start, end=start + utterance.samples.size / RATE)
        run.append(utterance)
        if utterance.end - run[0].start >= limit:
            yield from _closed(run)
            run = []
    yield from _closed(run)


def _closed(run: list[Utterance]) -> list[list[Utterance]]:
    return [run] if run and run[-1].end != run[0].start else []


def speaker_ordinals(chunk: Sequence[Utterance]) -> dict[str, str]:
    """Speaker -> ordinal, by first appearance in the chunk. Raises :class:`UserError` from the eleventh on."""
    speakers = list(dict.fromkeys(utterance.speaker for utterance in chunk))
    if len(speakers) > len(ORDINALS):
        raise UserError(f"{len(speakers)} speakers in one chunk, {len(ORDINALS)} can be told apart")
    return dict(zip(speakers, ORDINALS, strict=False))


def segments_of(chunk: Sequence[Utterance]) -> list[SpeakerSegment]:
    """Start and end from the chunk's beginning on, and the speaker's label."""
    zero, ordinals = chunk[0].start, speaker_ordinals(chunk)
    return [
        (each.start - zero, each.end - zero, f"the {ordinals[each.speaker]} speaker{each.note and ', ' + each.note}")
        for each in chunk
    ]


def on_timeline(chunk: Sequence[Utterance], overwrite: bool) -> Samples:
    """The utterances at their places in time. Overlaps are summed, or with ``overwrite`` only the later is kept."""
    zero = chunk[0].start
    places = [round((utterance.start - zero) * RATE) for utterance in chunk]
    seconds = max(utterance.end - zero for utterance in chunk)
    if seconds > LONGEST:
        raise UserError(f"the chunk would last {seconds:.0f} s; an utterance ends too late")
    last = round(seconds * RATE)
    size = max([last, *(place + each.samples.size for place, each in zip(places, chunk, strict=True))])
    mixed = np.zeros(size, np.float32)
    for place, utterance in zip(places, chunk, strict=True):
        part = mixed[place : place + utterance.samples.size]
        part[:] = utterance.samples if overwrite else part + utterance.samples
    return mixed


def conversation_rows(
    recipe: Recipe,
    meeting: str,
    utterances: Iterable[Utterance | Dropped],
    limit: float,
    mix: Callable[[Sequence[Utterance]], Samples] | None,
    own: Callable[[Sequence[Utterance]], Mapping[str, Any]],
    last_end: bool = False,
) -> Iterator[CorpusRow | Dropped]:
    """Rows of one meeting or dialogue: its name and the chunk's number and utterances are the ids.

    Args:
        limit: seconds from which on a chunk is closed.
        mix: samples of a chunk, ``(n,)``; ``None``: its utterances are played one after the other.
        own: the corpus's own columns of a chunk; comments follow ``recipe.description``, empty ones are left out.
        last_end: state the end of the last utterance, as published, where an earlier one may end later.
    """
    numbers = itertools.count()
    named = (
        chunk
        if isinstance(chunk, Dropped)
        else (f"{meeting}_{next(numbers)}_{'_'.join(utterance.key for utterance in chunk)}", chunk)
        for chunk in chunks(utterances, limit, back_to_back=mix is None)
    )

    def row(each: tuple[str, Sequence[Utterance]]) -> Iterator[CorpusRow]:
        joint, chunk = each
        segments = segments_of(chunk)
        duration = segments[-1][1] if last_end else max(end for _, end, _ in segments)
        fields = {**own(chunk), COUNT: len({each.speaker for each in chunk}), "joint_f_id": joint}
        samples = mix(chunk) if mix else np.concatenate([utterance.samples for utterance in chunk])
        texts = [utterance.text for utterance in chunk]
        yield spoken_row(recipe, (meeting, joint), texts, segments, duration, fields, samples)

    yield from each_row(named, lambda each: (meeting, each[0]), row)


def spoken_row(
    recipe: Recipe,
    ids: tuple[str, str],
    texts: Sequence[str],
    segments: Sequence[SpeakerSegment],
    duration: float,
    fields: Mapping[str, Any],
    audio: Samples | bytes,
    hidden: frozenset[str] = frozenset(),
) -> CorpusRow:
    """A row of several speakers; empty ``fields`` and ``hidden`` ones are no comments.

    ``audio``: samples ``(n,)`` to encode, or the bytes of a file. The row's second id gives its name.
    """
    hidden |= {key for key in recipe.description if fields[key] == ""}
    draft = Draft(*ids, ";".join(texts), fields, hidden=hidden)
    return CorpusRow(row_fields(recipe, draft, duration, texts, segments), encoded(f"{ids[1]}.wav", audio))


def check_times(start: object, end: object) -> None:
    """Raises :class:`UserError` if an utterance's times in seconds are no numbers, or in the wrong order."""
    good = all(isinstance(time, (int, float)) and math.isfinite(time) and time >= 0 for time in (start, end))
    if not good or end < start:  # type: ignore[operator]
        raise UserError(f"lasts from {start} to {end} s, expected two times in order")


def meeting_rows(
    recipe: Recipe,
    meeting: str,
    utterances: Iterable[Utterance | Dropped],
    gender_of: Mapping[str, str],
    options: Options,
) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one meeting; ``gender_of`` each speaker is ``Male`` or ``Female``."""

    def own(chunk: Sequence[Utterance]) -> dict[str, str]:
        genders = {
            f"the {ordinal} speaker's gender": gender_of[speaker]
            for speaker, ordinal in speaker_ordinals(chunk).items()
        }
        return {**dict.fromkeys(GENDERS, ""), **genders, "meeting_id": meeting}

    mix = functools.partial(on_timeline, overwrite=options.as_published)
    yield from conversation_rows(recipe, meeting, utterances, MEETING_LIMIT, mix, own, options.as_published)


meeting_recipe = functools.partial(
    Recipe,
    text_type="speech",
    description=(*GENDERS, COUNT),
    columns=(
        "audio_description",
        *GENDERS,
        *columns(f"{COUNT} | duration | text | audio | meeting_id | unique_id_1 | joint_f_id | unique_id_2"),
        "dataset_index",
    ),
    types={COUNT: "int64"},
    gb_per_hour=WAV_16,
    repairs=(
        "overlapping speech is summed (published: the later utterance overwrites the earlier)",
        "the stated duration is that of the longest utterance's end (published: of the last utterance's)",
        "speakers' genders stand in the order of the speakers (published: in any order)",
    ),
)
"""Recipe of a corpus of meetings, whose columns and repairs are the same in all of them."""
dialogue_recipe = functools.partial(
    Recipe,
    text_type="speech",
    description=(COUNT,),
    columns=columns(
        f"audio_description | {COUNT} | duration | text | audio | dialogue id | unique_id_1 | joint_f_id | "
        "unique_id_2 | dataset_index"
    ),
    gb_per_hour=WAV_16,
)
"""Recipe of a corpus of dialogues that are played without their gaps."""
