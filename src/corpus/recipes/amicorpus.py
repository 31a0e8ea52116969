"""AMI: English meetings, headset microphones, put together as they were spoken."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.corpus.collect.audio import read_mono
from src.corpus.collect.conversation import COUNT, Utterance
from src.corpus.collect.files import attempt, each_row, filled
from src.corpus.collect.hub import cell_bytes, rows_roots
from src.corpus.collect.meeting import COLUMNS, DESCRIPTION, REPAIRS, check_times, meeting_rows
from src.corpus.recipe import WAV_16, Dropped, HubRows, Inputs, Recipe, Record, Row, Work

ROOM_MICROPHONE = "SDM1"


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[int, ...]] | Dropped]:
    """Meetings with the numbers of their rows in the order of begin and end."""
    rows = inputs.rows["train"]
    names = ["meeting_id", "begin_time", "end_time", "microphone_id"]
    about = rows.select_columns(names).with_format("arrow")[:].to_pydict()
    meeting, begin, end, microphone = (about[name] for name in names)

    def usable(number: int) -> Iterator[int]:
        check_times(begin[number], end[number])
        filled(meeting[number], "meeting_id")
        yield number

    spoken = [number for number in range(len(rows)) if microphone[number] != ROOM_MICROPHONE]
    found = list(each_row(spoken, lambda number: (meeting[number], f"row {number}"), usable))
    yield from (each for each in found if isinstance(each, Dropped))
    order = sorted(
        (each for each in found if not isinstance(each, Dropped)),
        key=lambda number: (meeting[number], begin[number], end[number]),
    )
    for name in dict.fromkeys(meeting[number] for number in order):
        yield name, tuple(number for number in order if meeting[number] == name)


def utterance(record: Record, roots: Sequence[Path]) -> Utterance:
    """One upstream row; a path in its audio cell is followed inside ``roots`` only."""
    speaker, text = filled(record["speaker_id"], "speaker_id"), record["text"].lower().strip()
    samples = read_mono(cell_bytes(record["audio"], roots), record["audio"].get("path") or "")
    return Utterance(speaker[3:], speaker, text, record["begin_time"], record["end_time"], samples)


def _heard(rows: Any, roots: Sequence[Path], number: int) -> Utterance:
    return utterance(rows[number], roots)


def make(job: tuple[str, tuple[int, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    """Chunks of one meeting."""
    meeting, numbers = job
    rows = inputs.rows["train"]
    roots = rows_roots(rows, inputs)
    speakers = set(rows.select(numbers)["speaker_id"][:])
    gender_of = {speaker: "Male" if speaker[0] == "M" else "Female" for speaker in speakers if speaker}
    heard = (
        attempt((meeting, f"row {number}"), functools.partial(_heard, rows, roots, number)) for number in numbers
    )
    yield from meeting_rows(recipe, meeting, heard, gender_of, inputs.options)


RECIPE = Recipe(
    name="amicorpus",
    title="AMI (headsets)",
    sources=(HubRows("edinburghcstr/ami", "8dfb8d51a914b60af751fa9b561878bbba07160d"),),
    work=Work(jobs, make, per_part=5),
    text_type="speech",
    description=DESCRIPTION,
    columns=COLUMNS,
    types={COUNT: "int64"},
    rows=1904,
    hours=22.67,
    gb_per_hour=WAV_16,
    licence="CC BY 4.0",
    repairs=REPAIRS,
)
