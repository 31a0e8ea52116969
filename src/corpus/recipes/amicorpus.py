"""AMI: English meetings, headset microphones, mixed on one timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from src.corpus.recipe import WAV_16, CorpusRow, Dropped, HubRows, Inputs, Recipe, UpstreamRecord, Work
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import (
    COUNT,
    MEETING_COLUMNS,
    MEETING_DESCRIPTION,
    MEETING_REPAIRS,
    Utterance,
    check_times,
    meeting_rows,
)
from src.corpus.rows.make import attempt, cell_bytes, each_row, rows_roots
from src.corpus.rows.tables import filled

ROOM_MICROPHONE = "SDM1"


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[int, ...]] | Dropped]:
    """Meetings with the numbers of their rows in the order of begin and end."""
    rows = inputs.rows["train"]
    names = ["meeting_id", "begin_time", "end_time", "microphone_id"]
    times = rows.select_columns(names).with_format("arrow")[:].to_pydict()
    meeting, begin, end, microphone = (times[name] for name in names)

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


def utterance(record: UpstreamRecord, roots: Sequence[Path]) -> Utterance:
    """One upstream row; a path in its audio cell is followed inside ``roots`` only."""
    speaker, text = filled(record["speaker_id"], "speaker_id"), record["text"].lower().strip()
    samples = read_mono(cell_bytes(record["audio"], roots), record["audio"].get("path") or "")
    return Utterance(speaker[3:], speaker, text, record["begin_time"], record["end_time"], samples)


def make(job: tuple[str, tuple[int, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one meeting."""
    meeting, numbers = job
    rows = inputs.rows["train"]
    roots = rows_roots(rows, inputs)
    speakers = set(rows.select(numbers)["speaker_id"][:])
    gender_of = {speaker: "Male" if speaker[0] == "M" else "Female" for speaker in speakers if speaker}
    utterances = (
        attempt((meeting, f"row {number}"), lambda number=number: utterance(rows[number], roots))  # type: ignore[misc]
        for number in numbers
    )
    yield from meeting_rows(recipe, meeting, utterances, gender_of, inputs.options)


RECIPE = Recipe(
    name="amicorpus",
    title="AMI (headsets)",
    sources=(HubRows("edinburghcstr/ami", "8dfb8d51a914b60af751fa9b561878bbba07160d"),),
    work=Work(jobs, make, per_batch=5),
    text_type="speech",
    description=MEETING_DESCRIPTION,
    columns=MEETING_COLUMNS,
    types={COUNT: "int64"},
    rows=1904,
    hours=22.67,
    gb_per_hour=WAV_16,
    licence="CC BY 4.0",
    repairs=MEETING_REPAIRS,
)
