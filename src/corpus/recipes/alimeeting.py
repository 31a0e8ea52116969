"""AliMeeting: Mandarin meetings, each speaker's own microphone, put together as they were spoken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.corpus.collect.audio import Cuts, mono, to_rate
from src.corpus.collect.conversation import COUNT, Utterance
from src.corpus.collect.files import each_row, files
from src.corpus.collect.meeting import COLUMNS, DESCRIPTION, REPAIRS, check_times, meeting_rows
from src.corpus.collect.textgrid import first_tier
from src.corpus.recipe import WAV_16, Dropped, Inputs, Recipe, Row, Work, web


@dataclass(frozen=True)
class Track:
    """One speaker of a meeting."""

    speaker: str
    gender: str
    textgrid: Path
    wav: Path


def jobs(inputs: Inputs) -> Iterator[tuple[str, tuple[Track, ...]] | Dropped]:
    """Meetings with their tracks; files are named ``ROOM_MEETING_GENDER_SPEAKER``."""
    root = inputs.path("Train_Ali_near")
    meetings: dict[str, list[Track]] = {}

    def track(path: Path) -> Iterator[tuple[str, Track]]:
        room, meeting, gender, speaker = path.stem.split("_")
        wav = root / "audio_dir" / f"{path.stem}.wav"
        yield f"{room}_{meeting}", Track(speaker, "Male" if gender == "M" else "Female", path, wav)

    for found in each_row(files(root / "textgrid_dir", ".TextGrid"), lambda path: (path.name, ""), track):
        if isinstance(found, Dropped):
            yield found
        else:
            meetings.setdefault(found[0], []).append(found[1])
    for meeting, tracks in meetings.items():
        yield meeting, tuple(tracks)


def utterances(meeting: str, tracks: tuple[Track, ...]) -> Iterator[Utterance | Dropped]:
    """All intervals of the meeting by their start; at the same time, speakers in the order of their files' names."""
    spoken = [(start, end, text, track) for track in tracks for start, end, text in first_tier(track.textgrid)]
    cuts = {track.speaker: Cuts(track.wav) for track in tracks}

    def utterance(interval: tuple[float, float, str, Track]) -> Iterator[Utterance]:
        start, end, text, track = interval
        check_times(start, end)
        file = cuts[track.speaker]
        samples = file.read(round(start * file.rate), round(end * file.rate))
        heard = to_rate(mono(samples), file.rate)[0]
        yield Utterance(track.speaker.removeprefix("SPK"), track.speaker, text.strip(), start, end, heard)

    ordered = sorted(spoken, key=lambda each: each[0])
    yield from each_row(ordered, lambda each: (meeting, f"{each[3].speaker} at {each[0]} s"), utterance)


def make(job: tuple[str, tuple[Track, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[Row | Dropped]:
    """Chunks of one meeting."""
    meeting, tracks = job
    gender_of = {track.speaker: track.gender for track in tracks}
    yield from meeting_rows(recipe, meeting, utterances(meeting, tracks), gender_of, inputs.options)


RECIPE = Recipe(
    name="alimeeting",
    title="AliMeeting (near field)",
    sources=(
        web(
            "https://speech-lab-share-data.oss-cn-shanghai.aliyuncs.com/AliMeeting/openlr/Train_Ali_near.tar.gz",
            "Train_Ali_near",
        ),
    ),  # fmt: skip
    work=Work(jobs, make, per_part=2),
    text_type="speech",
    description=DESCRIPTION,
    columns=COLUMNS,
    types={COUNT: "int64"},
    rows=10209,
    hours=120.93,
    gb_per_hour=WAV_16,
    licence="CC BY-SA 4.0",
    repairs=REPAIRS,
)
