"""Imitations of music and sound corpora that are trees of files."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.upstream.writing import audio, put, put_table


def clotho(root: Path) -> None:
    """Two files with five captions; the second's keywords are not UTF-8."""
    captions = [
        {"file_name": name, **{f"caption_{number}": f" {name} {number} " for number in range(1, 6)}}
        for name in ("b.wav", "a, x.wav")
    ]
    put_table(root / "captions.csv", captions)
    put(root / "metadata.csv", b"file_name,keywords,sound_id\nb.wav,rain;wind,1\nb.wav,late,1\n"
        + '"a, x.wav",caf\xe9,2\n'.encode("latin-1"))  # fmt: skip
    for name in ("b.wav", "a, x.wav"):
        put(root / "development" / name, audio(1.0, 44100, 2))


def gtzan(root: Path) -> None:
    """Three genres and the broken file."""
    for name in ("blues/blues.00000", "jazz/jazz.00054", "hiphop/hiphop.00001"):
        put(root / f"Data/genres_original/{name}.wav", audio(30.01, 22050))


def opensinger(root: Path) -> None:
    """The same song by a man and a woman, the text with the end of its line."""
    for folder in ("ManRaw", "WomanRaw"):
        place = root / "OpenSinger" / folder / "0_光年之外"
        put(place / "0_光年之外_0.wav", audio(4.0, 24000))
        put(place / "0_光年之外_0.txt", "感受停在\n")
        put(place / "0_光年之外_0.lab", "ignored")


def singmos(root: Path) -> None:
    """Four kinds of singing, and one of another list."""
    kinds, scores = ("svs", "svc", "vocoder", "gt", "gt"), (3.4, "4.126", 2, 5, 1)
    rated = {f"u{n}": {"sys_id": f"s{n}", "score": {"mos": score}} for n, score in enumerate(scores)}
    put(root / "info/score.json", json.dumps({"utterance": rated}))
    put(root / "info/sys_info.json", json.dumps({f"s{n}": {"type": kind} for n, kind in enumerate(kinds)}))
    put(root / "info/split.json", json.dumps({"singmos": {"train": ["u0", "u1", "u2", "u3"], "test": ["u4"]}}))
    for number in range(5):
        put(root / f"wavs/u{number}.wav", audio(3.1, 44100))


def mridangam(root: Path) -> None:
    """A stroke, and a note beside the folders."""
    put(root / "mridangam_stroke_1.5/B/224030__akshaylaya__bheem-b-001.wav", audio(0.6, 44100))
    put(root / "mridangam_stroke_1.5/README.txt", "x")


def nsynth(root: Path) -> None:
    """A note with qualities, and one without."""
    note = {"note": 7, "instrument_family": 9, "instrument_source": 2, "pitch": 24, "velocity": 25}
    notes = {
        "synth_lead_synthetic_000-024-025": {**note, "qualities_str": ["dark", "percussive"]},
        "bass_acoustic_000-024-025": {
            **note, "note": 8, "instrument_family": 0, "instrument_source": 0, "qualities_str": [],
        },
    }  # fmt: skip
    put(root / "nsynth-train/examples.json", json.dumps(notes))
    for name in notes:
        put(root / f"nsynth-train/audio/{name}.wav", audio(4.0))


def fma(root: Path) -> None:
    """Tracks with and without tags; one of another split, one of no subset, one that cannot be decoded."""
    groups = ["", "album", "album", "artist", "artist", "set", "set", "track", "track", "track", "track"]
    names = ["", "tags", "title", "name", "tags", "split", "subset", "genres", "language_code", "tags", "title"]
    lines = [",".join(groups), ",".join(names), "track_id" + "," * 10]
    tagged = "\"['a', 'b']\",First Album,Ann,[],training,small,\"[21, 15]\",en,['x'],Song"
    lines += [
        f"2,{tagged}",
        "135,[],NA,Bob,\"['t']\",training,large,[],,[],null",
        f"3,{tagged.replace('training', 'test')}",
        f"5,{tagged.replace('small', '')}",
        f"10,{tagged}",
    ]
    put(root / "fma_metadata/tracks.csv", "\n".join(lines) + "\n")
    genres = [
        {"genre_id": 15, "#tracks": 1, "parent": 0, "title": "Electronic"},
        {"genre_id": 21, "#tracks": 1, "parent": 15, "title": "Same"},
        {"genre_id": 22, "#tracks": 1, "parent": 0, "title": "Same"},
    ]
    put_table(root / "fma_metadata/genres.csv", genres)
    for number in (2, 135, 3, 5):
        put(root / f"fma_large/000/{number:06d}.mp3", audio(2.0, 44100, 2))
    put(root / "fma_large/000/000010.mp3", b"")


def esc50(root: Path) -> None:
    """Two clips."""
    rows = [
        {"filename": "1-100032-A-0.wav", "fold": 1, "category": "dog", "src_file": 100032},
        {"filename": "2-200-A-1.wav", "fold": 2, "category": "pouring_water", "src_file": 200},
    ]
    put_table(root / "ESC-50-master/meta/esc50.csv", rows)
    for row in rows:
        put(root / f"ESC-50-master/audio/{row['filename']}", audio(5.0, 44100))


def fsd50k(root: Path) -> None:
    """A clip whose uploader gave a label more, and one of the validation part."""
    put_table(
        root / "FSD50K.ground_truth/dev.csv",
        [
            {"fname": 64760, "labels": "Electric_guitar,Music", "mids": "x", "split": "train"},
            {"fname": 9, "labels": "Rain", "mids": "x", "split": "train"},
            {"fname": 16399, "labels": "Rain", "mids": "x", "split": "val"},
        ],
    )
    put_table(
        root / "FSD50K.metadata/collection/collection_dev.csv",
        [{"fname": 64760, "labels": "Strum,Music", "mids": "x"}, {"fname": 9, "labels": "Rain", "mids": "x"}],
    )
    for number in (64760, 9, 16399):
        put(root / f"FSD50K.dev_audio/{number}.wav", audio(0.4, 44100))


SOUNDS = {
    make.__name__: make
    for make in (clotho, gtzan, opensinger, singmos, mridangam, nsynth, fma, esc50, fsd50k)
}  # fmt: skip
