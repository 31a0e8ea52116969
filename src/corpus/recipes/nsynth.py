"""NSynth: single notes of a thousand instruments, training set."""

from __future__ import annotations

from collections.abc import Iterator

from src.common.errors import UserError
from src.corpus.recipe import WAV_16, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import read_json

URL = "http://download.magenta.tensorflow.org/datasets/nsynth/nsynth-train.jsonwav.tar.gz"
# Families, sources and qualities by number and in words: https://magenta.tensorflow.org/datasets/nsynth
FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth lead", "vocal",
)  # fmt: skip
NUMBERED = ("instrument_family", "instrument_source")
KINDS = ("acoustic", "electronic", "synthetic")
QUALITIES = {
    "bright": "A large amount of high frequency content and strong upper harmonics.",
    "dark": "A distinct lack of high frequency content, giving a muted and bassy sound. Also sometimes described as "
    "'Warm'.",
    "distortion": "Waveshaping that produces a distinctive crunchy sound and presence of many harmonics. Sometimes "
    "paired with non-harmonic noise.",
    "fast_decay": "Amplitude envelope of all harmonics decays substantially before the 'note-off' point at 3 "
    "seconds.",
    "long_release": "Amplitude envelope decays slowly after the 'note-off' point, sometimes still present at the end "
    "of the sample 4 seconds.",
    "multiphonic": "Presence of overtone frequencies related to more than one fundamental frequency.",
    "nonlinear_env": "Modulation of the sound with a distinct envelope behavior different than the monotonic "
    "decrease of the note. Can also include filter envelopes as well as dynamic envelopes.",
    "percussive": "A loud non-harmonic sound at note onset.",
    "reverb": "Room acoustics that were not able to be removed from the original sample.",
    "tempo-synced": "Rhythmic modulation of the sound to a fixed tempo.",
}


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """One row for each note."""
    root = inputs.path("nsynth-train")
    notes = read_json(root / "examples.json")

    def draft(name: str) -> Iterator[Draft]:
        note = notes[name]
        wrong = [key for key in ("pitch", "velocity", *NUMBERED) if not isinstance(note[key], int) or note[key] < 0]
        if wrong and not inputs.options.as_published:
            raise UserError(f"{wrong[0]} is {note[wrong[0]]!r}, expected a number from 0 on")
        family, found = FAMILIES[note["instrument_family"]], note["qualities_str"]
        meanings = " ".join(QUALITIES[quality] for quality in found)
        fields = {
            "MIDI pitch": f"{note['pitch']} out of 127",
            "MIDI velocity": f"{note['velocity']} out of 127",
            "instrument source": KINDS[note["instrument_source"]].title(),
            "instrument family": family.title(),
            "special qualitative categories": "/".join(found) or "None",
            "special qualitative categories description": f"'{meanings}'"
            if found
            else "No special categories for this audio",
            "note_id": note["note"],
            "fname": name,
        }
        yield Draft(name, str(note["note"]), f"{family} musical note", fields, root / "audio" / f"{name}.wav")

    yield from each_row(notes, lambda name: (name, ""), draft)


RECIPE = Recipe(
    name="nsynth",
    title="NSynth (train)",
    sources=(web(URL, "nsynth-train"),),
    work=file_rows(drafts),
    text_type="caption",
    description=columns(
        "MIDI pitch | MIDI velocity | instrument source | instrument family | special qualitative categories | "
        "special qualitative categories description"
    ),
    columns=columns(
        "audio_description | duration | text | MIDI pitch | MIDI velocity | instrument source | "
        "instrument family | special qualitative categories | special qualitative categories description | "
        "audio | note_id | unique_id_2 | fname | unique_id_1 | dataset_index"
    ),
    types={"note_id": "int64"},
    rows=289205,
    hours=321.34,
    gb_per_hour=WAV_16,
    licence="CC BY 4.0",
    repairs=("a note without pitch or velocity is left out (published: `None out of 127`)",),
)
