"""Check of a saved raw set: columns, order, descriptions, audio. Every problem names the rows' ids."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.audio.roots import roots_of
from src.common.errors import UserError
from src.corpus.description import clock
from src.corpus.recipe import IDS, Recipe
from src.corpus.rows.audio import seconds_of
from src.corpus.rows.make import cell_bytes

_SHOWN = 5
_BATCH = 10_000
_SINGLE = re.compile(r"\[00:00-(\d{2,}:\d{2})\] ", re.DOTALL)
_SEGMENT = re.compile(r"\[(\d{2,}:\d{2})-(\d{2,}:\d{2}), ([^\]]+)\] ")
_TOLERANCE = 0.011
"""Seconds by which a decoder at another rate may differ from a stated duration."""


def check_raw_set(recipe: Recipe, folder: Path, decode_rows: int = 100, as_published: bool = False) -> list[str]:
    """Problems of a saved set, empty if there are none.

    Checked: columns, order, numbering and uniqueness of all rows, the description's grammar on all rows, and on
    ``decode_rows`` rows spread over the set that the audio decodes to the stated duration (-1: on all);
    the published rows (``as_published``) may repeat a pair, and state less of overlapping speech.
    """
    from datasets import load_from_disk

    problems: list[str] = []
    for split, rows in load_from_disk(str(folder)).items():
        found = [
            *_columns(recipe, rows),
            *_order(rows, may_repeat=as_published),
            *_descriptions(recipe, rows),
            *_audio(rows, decode_rows, as_published),
        ]
        problems += [f"{recipe.name}/{split}: {problem}" for problem in found]
    return problems


def _columns(recipe: Recipe, rows: Any) -> Iterator[str]:
    if tuple(rows.column_names) != recipe.columns:
        yield f"columns are {', '.join(rows.column_names)}; expected {', '.join(recipe.columns)}"
    rate = getattr(rows.features.get("audio"), "sampling_rate", None)
    if rate != 16000:
        yield f"the audio column is to be resampled to {rate}; expected 16000"


def _order(rows: Any, may_repeat: bool) -> Iterator[str]:
    import pyarrow.compute as pc

    index = np.asarray(rows.data.column("dataset_index"))
    if not np.array_equal(index, np.arange(len(rows))):
        first = int(np.flatnonzero(index != np.arange(len(rows)))[0])
        yield f"dataset_index of row {first} is {index[first]}; expected {first}"
    if len(rows) < 2:
        return
    one, two = (rows.data.column(name) for name in IDS)
    before = pc.less_equal if may_repeat else pc.less
    less = pc.less(one[:-1], one[1:])
    equal = pc.equal(one[:-1], one[1:])
    sorted_pairs = pc.or_(less, pc.and_(equal, before(two[:-1], two[1:])))
    wrong = np.flatnonzero(~np.asarray(pc.fill_null(sorted_pairs, True)))
    if wrong.size:
        ids = [f"({one[int(row)]}, {two[int(row)]})" for row in wrong[:_SHOWN]]
        yield f"{wrong.size} rows are not before the next by their ids, or have the same: {', '.join(ids)}"


def _descriptions(recipe: Recipe, rows: Any) -> Iterator[str]:
    instructions = recipe.text_type == "none"
    names = [*(("question",) if instructions else ("audio_description", "duration")), *IDS]
    if any(name not in rows.column_names for name in names):
        return  # reported with the columns
    wrong: list[str] = []
    count = 0
    view = rows.select_columns(names).with_format("arrow")
    for start in range(0, len(rows), _BATCH):
        for row in view[start : start + _BATCH].to_pylist():
            if instructions:
                reason = "" if row["question"] else "has an empty question"
            else:
                reason = wrong_description(row["audio_description"], row["duration"], recipe.description)
            if reason:
                count += 1
                wrong.append(f"({row[IDS[0]]}, {row[IDS[1]]}) {reason}")
        del wrong[_SHOWN:]  # a set of millions of rows may be wrong in all of them
    if count:
        yield f"{count} rows with a wrong text: {'; '.join(wrong)}"


def wrong_description(description: str, duration: float, keys: tuple[str, ...]) -> str:
    """Fault in the grammar ``BODY (duration: Ns[, key: value]*)``; empty if there is none.

    Keys may be left out, but stand in their order, and the stated seconds are those of ``duration``.
    """
    if duration is None or not duration > 0:
        return f"has duration {duration}"
    tail = f" (duration: {round(duration)}s"
    place = description.rfind(tail)  # the last one: the text itself may say the same
    if place < 0 or not description.endswith(")"):
        return f"does not end in '{tail[1:]}, ...)'"
    single = _SINGLE.match(description)
    if single:
        if single[1] != clock(duration):
            return f"says {single[1]}, its duration is {clock(duration)}"
    elif not _SEGMENT.match(description):
        return "does not begin with '[00:00-MM:SS] ' or '[MM:SS-MM:SS, speaker] '"
    comments, at = description[place + len(tail) : -1], 0
    for key in keys:
        found = comments.find(f", {key.lower()}: ")
        if 0 <= found < at:
            return f"has {key.lower()!r} before a key that it follows"
        at = max(at, found)
    if comments and not comments.startswith(", "):
        return "has something behind its duration that is no comment"
    return ""


def _audio(rows: Any, decode_rows: int, may_state_less: bool) -> Iterator[str]:
    from datasets import Audio

    count = len(rows) if decode_rows < 0 else min(decode_rows, len(rows))
    if count == 0 or "audio" not in rows.column_names:
        return
    view = rows.cast_column("audio", Audio(decode=False))
    roots = roots_of(rows)
    wrong = []
    for number in np.unique(np.linspace(0, len(rows) - 1, count).astype(int)).tolist():
        row = view[number]
        try:
            decoded = seconds_of(cell_bytes(row["audio"], roots), row["audio"]["path"])
        except UserError as error:
            wrong.append(f"({row[IDS[0]]}, {row[IDS[1]]}) {error}")
            continue
        stated = row.get("duration")
        if stated is not None and not (
            -_TOLERANCE <= decoded - stated <= (math.inf if may_state_less else _TOLERANCE)
        ):
            wrong.append(f"({row[IDS[0]]}, {row[IDS[1]]}) states {stated:.3f} s, decodes to {decoded:.3f} s")
    if wrong:
        yield f"{len(wrong)} of {count} rows decoded: {'; '.join(wrong[:_SHOWN])}"
