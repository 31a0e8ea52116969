"""AliMeeting (https://www.openslr.org/119/): Mandarin meetings, one microphone per speaker, on one timeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.common.errors import UserError
from src.corpus.recipe import CorpusRow, Dropped, Inputs, Recipe, Work, web
from src.corpus.rows.audio import Cuts, mono, to_rate
from src.corpus.rows.conversation import Utterance, check_times, meeting_recipe, meeting_rows
from src.corpus.rows.make import each_row, grouped
from src.corpus.rows.tables import files

URL = "https://speech-lab-share-data.oss-cn-shanghai.aliyuncs.com/AliMeeting/openlr/Train_Ali_near.tar.gz"
# Files are long or short; Praat itself counts free-standing numbers, texts and flags only:
# https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
_TOKEN = re.compile(r'"(?:[^"]|"")*"|<\w+>|(?<![^\s=])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\S)|![^\n]*')


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

    def track(path: Path) -> Iterator[tuple[str, Track]]:
        room, meeting, gender, speaker = path.stem.split("_")
        wav = root / "audio_dir" / f"{path.stem}.wav"
        yield f"{room}_{meeting}", Track(speaker, "Male" if gender == "M" else "Female", path, wav)

    yield from grouped(each_row(files(root / "textgrid_dir", ".TextGrid"), lambda path: (path.name, ""), track))


def first_tier(path: Path) -> list[tuple[float, float, str]]:
    """Intervals of a TextGrid's first tier: start and end in seconds, and text. Raises :class:`UserError`."""
    data = path.read_bytes()
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("!")]
    try:
        tier = next(place for place, token in enumerate(tokens) if token == '"IntervalTier"')
        count = int(tokens[tier + 4])  # behind the class: name, start, end, number of intervals
        cells = tokens[tier + 5 : tier + 5 + 3 * count]
        if len(cells) != 3 * count:
            raise ValueError(f"{count} intervals are announced, {len(cells) // 3} are there")
        return [
            (float(cells[place]), float(cells[place + 1]), cells[place + 2][1:-1].replace('""', '"'))
            for place in range(0, len(cells), 3)
        ]
    except (StopIteration, ValueError, IndexError) as error:
        raise UserError(f"{path} is not a TextGrid with a tier of intervals ({error or 'none found'})") from error


def utterances(meeting: str, tracks: tuple[Track, ...]) -> Iterator[Utterance | Dropped]:
    """All intervals of the meeting by their start; at the same time, speakers in the order of their files' names."""
    spoken = [(start, end, text, track) for track in tracks for start, end, text in first_tier(track.textgrid)]
    cuts = {track.speaker: Cuts(track.wav) for track in tracks}

    def utterance(interval: tuple[float, float, str, Track]) -> Iterator[Utterance]:
        start, end, text, track = interval
        check_times(start, end)
        file = cuts[track.speaker]
        cut = file.read(round(start * file.rate), round(end * file.rate))
        samples = to_rate(mono(cut), file.rate)[0]
        yield Utterance(track.speaker.removeprefix("SPK"), track.speaker, text.strip(), start, end, samples)

    ordered = sorted(spoken, key=lambda each: each[0])
    yield from each_row(ordered, lambda each: (meeting, f"{each[3].speaker} at {each[0]} s"), utterance)


def make(job: tuple[str, tuple[Track, ...]], inputs: Inputs, recipe: Recipe) -> Iterator[CorpusRow | Dropped]:
    """Chunks of one meeting."""
    meeting, tracks = job
    gender_of = {track.speaker: track.gender for track in tracks}
    yield from meeting_rows(recipe, meeting, utterances(meeting, tracks), gender_of, inputs.options)


RECIPE = meeting_recipe(
    name="alimeeting",
    title="AliMeeting (near field)",
    sources=(web(URL, "Train_Ali_near"),),
    work=Work(jobs, make, per_batch=2),
    rows=10209,
    hours=120.93,
    licence="CC BY-SA 4.0",
)
