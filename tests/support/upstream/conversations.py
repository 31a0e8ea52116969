"""Imitations of corpora with several speakers in a row."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.upstream.writing import audio, put, put_table

Interval = tuple[float, float, str]


def voxceleb1(root: Path) -> None:
    """Two women and a man of the development set with two recordings each, and a test speaker."""
    people = [("id1", "f", "Norway"), ("id2", "m", "USA"), ("id3", "f", "Chile"), ("id9", "m", "UK")]
    put_table(
        root / "meta.csv",
        [
            {"VoxCeleb1 ID": name, "VGGFace1 ID": "x", "Gender": gender, "Nationality": nation,
             "Set": "test" if name == "id9" else "dev"}
            for name, gender, nation in people
        ],
        "\t",
    )  # fmt: skip
    for name, _, _ in people:
        put(root / f"wav/{name}/v1/00001.wav", audio(1.5))
        put(root / f"wav/{name}/v2/00002.wav", audio(2.25))


def textgrid(intervals: list[Interval], end: float) -> str:
    """A TextGrid in Praat's long form: silence is left out, as AliMeeting does."""
    body = "".join(
        f"        intervals [{number}]:\n            xmin = {start}\n            xmax = {stop}\n"
        f'            text = "{text}"\n'
        for number, (start, stop, text) in enumerate(intervals, 1)
    )
    return (
        f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {end}\ntiers? <exists>\nsize = 1\n'
        f'item []:\n    item [1]:\n        class = "IntervalTier"\n        name = "N_SPK"\n        xmin = 0\n'
        f"        xmax = {end}\n        intervals: size = {len(intervals)}\n{body}"
    )


def alimeeting(root: Path) -> None:
    """A meeting of two."""
    spoken: dict[str, list[Interval]] = {
        "F_SPK0011": [(2.0, 4.0, " 嗯 "), (10.0, 30.0, "好的"), (50.5, 52.0, "完")],
        "M_SPK0012": [(3.0, 43.0, "长"), (45.0, 46.0, "啊")],
    }
    for name, intervals in spoken.items():
        stem = f"R0001_M0002_{name}"
        put(root / f"Train_Ali_near/textgrid_dir/{stem}.TextGrid", textgrid(intervals, 53.0))
        put(root / f"Train_Ali_near/audio_dir/{stem}.wav", audio(53.0))


def meld(root: Path) -> None:
    """A dialogue whose third utterance cannot be decoded, and a second one."""
    spoken = [
        ("0", "3", "Interviewer", "joy", "positive", "After", 3.0),
        ("0", "0", "Chandler", "neutral", "neutral", "also I was\x92 x ", 6.0),
        ("0", "1", "Interviewer", "surprise", "positive", "You must", 4.5),
        ("0", "2", "Chandler", "neutral", "neutral", "lost", 0.0),
        ("10", "0", "Ross", "anger", "negative", "No", 21.0),
        ("10", "1", "Ross", "anger", "negative", "Yes", 1.0),
    ]
    names = ("Dialogue_ID", "Utterance_ID", "Speaker", "Emotion", "Sentiment", "Utterance")
    put_table(root / "MELD.Raw/train_sent_emo.csv", [dict(zip(names, row[:6], strict=True)) for row in spoken])
    for row in spoken:
        content = audio(row[6], 48000, 2) if row[6] else b"no video"
        put(root / f"MELD.Raw/train_splits/dia{row[0]}_utt{row[1]}.mp4", content)


def dailytalk(root: Path) -> None:
    """A dialogue of eleven turns that is trained on, and one that is not."""
    turns = {str(turn): {"speaker": turn % 2, "act": "inform", "emotion": "no emotion"} for turn in range(11)}
    metadata = {"7": turns, "8": {"0": {"speaker": 0, "act": "question", "emotion": "anger"}}}
    put(root / "dailytalk/metadata.json", json.dumps(metadata))
    lines = [f"{turn}_{turn % 2}_d7|{turn % 2}|{{HH}}| turn {turn} |no emotion" for turn in range(11)]
    put(root / "dailytalk/train.txt", "\n".join(lines) + "\n")
    for turn in range(11):
        put(root / f"dailytalk/data/7/{turn}_{turn % 2}_d7.wav", audio(3.0, 44100))


def librimix(root: Path) -> None:
    """A mixture of two and one of three from the first subset."""
    from src.corpus.recipes.librimix import TABLES

    folder = root / "LibriSpeech"
    put(folder / "SPEAKERS.TXT", "; comment\n14 | F | x\n19 | M | x\n26 | M | x\n")
    lengths = {"14-208-0000": 11.0, "19-198-0000": 15.0, "26-495-0000": 2.0}
    for name, seconds in lengths.items():
        speaker, chapter, _ = name.split("-")
        place = folder / f"train-clean-100/{speaker}/{chapter}"
        put(place / f"{speaker}-{chapter}.trans.txt", f"{name} HELLO {speaker}\n")
        put(place / f"{name}.flac", audio(seconds, kind="FLAC"))
    (folder / "train-clean-360").mkdir()
    # two tones of equal level: over the mixture's length their powers are as their lengths, gains correct for that
    gain = (10 ** (-0.057123) * 15.0 / 11.0) ** 0.5
    gains = {2: (gain, 1.0), 3: (1.0, 0.5, 2.0)}
    for (partition, count), path in TABLES.items():
        chosen = list(lengths)[:count] if count == 2 else list(lengths)[::-1]
        row: dict[str, object] = {"mixture_ID": "_".join(chosen)}
        for number, (name, factor) in enumerate(zip(chosen, gains[count], strict=True), 1):
            speaker, chapter, _ = name.split("-")
            row[f"source_{number}_path"] = f"train-clean-100/{speaker}/{chapter}/{name}.flac"
            row[f"source_{number}_gain"] = factor
        if partition.startswith("train-100"):
            put_table(root / "metadata" / path, [row])
        else:
            put(root / "metadata" / path, ",".join(row) + "\n")


CONVERSATIONS = {
    make.__name__: make
    for make in (voxceleb1, alimeeting, meld, dailytalk, librimix)
}  # fmt: skip
