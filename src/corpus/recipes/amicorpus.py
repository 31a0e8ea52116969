"""AMI: English meetings, headset microphones, mixed on one timeline."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import CorpusRow, Dropped, HubRows, Inputs, Recipe, Work
from src.corpus.rows.audio import read_mono
from src.corpus.rows.conversation import Utterance, check_times, meeting_recipe, meeting_rows
from src.corpus.rows.make import cell_bytes, each_row, grouped
from src.corpus.rows.tables import filled

ROOM_MICROPHONE = "SDM1"
"""Single distant microphone, whose rows repeat what the headsets have recorded."""


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[int, ...]] | Dropped]:
    """Meetings with the numbers of their rows in the order of begin and end."""
    rows = inputs.rows["train"]
    names = ["meeting_id", "begin_time", "end_time", "microphone_id"]
    times = rows.select_columns(names).with_format("arrow")[:].to_pydict()
    meeting, begin, end, microphone = (times[name] for name in names)

    def usable(number: int) -> Iterator[tuple[str, float, float, int]]:
        check_times(begin[number], end[number])
        yield filled(meeting[number], "meeting_id"), begin[number], end[number], number

    spoken = [number for number in range(len(rows)) if microphone[number] != ROOM_MICROPHONE]
    found = list(each_row(spoken, lambda number: (meeting[number], f"row {number}"), usable))
    yield from (each for each in found if isinstance(each, Dropped))
    ordered = sorted(each for each in found if not isinstance(each, Dropped))
    yield from grouped((name, number) for name, _, _, number in ordered)


def make(job: tuple[str, tuple[int, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one meeting."""
    meeting, numbers = job
    rows = inputs.rows["train"]
    speakers = set(rows.select(numbers)["speaker_id"][:])
    gender_of = {speaker: "Male" if speaker[0] == "M" else "Female" for speaker in speakers if speaker}

    def utterance(number: int) -> Iterator[Utterance]:
        record = rows[number]
        speaker, text = filled(record["speaker_id"], "speaker_id"), record["text"].lower().strip()
        samples = read_mono(cell_bytes(record["audio"], inputs.allowed["train"]), record["audio"].get("path") or "")
        yield Utterance(speaker[3:], speaker, text, record["begin_time"], record["end_time"], samples)

    utterances = each_row(numbers, lambda number: (meeting, f"row {number}"), utterance)
    yield from meeting_rows(recipe, meeting, utterances, gender_of, inputs.options)


RECIPE = meeting_recipe(
    name="amicorpus",
    title="AMI (headsets)",
    sources=(HubRows("edinburghcstr/ami", "8dfb8d51a914b60af751fa9b561878bbba07160d"),),
    work=Work(jobs, make, per_batch=5),
    rows=1904,
    hours=22.67,
    licence="CC BY 4.0",
)
