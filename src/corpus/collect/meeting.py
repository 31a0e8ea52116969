"""What meetings share: utterances at their places in time, speakers told by ordinal and gender."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping

from src.common.errors import UserError
from src.corpus.collect.conversation import (
    COUNT,
    GENDERS,
    Utterance,
    conversation_rows,
    gender_columns,
    on_timeline,
)
from src.corpus.recipe import Dropped, Options, Recipe, Row, columns

LIMIT = 40.0
"""Seconds from which on a chunk is closed."""
COLUMNS = (
    "audio_description",
    *GENDERS,
    *columns(
        f"{COUNT} | duration | text | audio | meeting_id | unique_id_1 | joint_f_id | unique_id_2 | dataset_index"
    ),
)
DESCRIPTION = (*GENDERS, COUNT)
REPAIRS = (
    "overlapping speech is summed (published: the later utterance overwrites the earlier)",
    "the stated duration is that of the longest utterance's end (published: of the last utterance's)",
    "speakers' genders stand in the order of the speakers (published: in any order)",
)


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
) -> Iterator[Row | Dropped]:
    """Chunks of one meeting; ``gender_of`` each speaker is ``Male`` or ``Female``."""
    yield from conversation_rows(
        recipe,
        meeting,
        utterances,
        LIMIT,
        mix=functools.partial(on_timeline, overwrite=options.as_published),
        own=lambda chunk: {**gender_columns(chunk, gender_of), "meeting_id": meeting},
        last_end=options.as_published,
    )
