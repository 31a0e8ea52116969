"""Imitations of the sets that are rows on the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

from src.corpus.recipes.cameo import SPLITS
from tests.support.upstream.writing import audio, put, put_rows


def cameo(root: Path) -> None:
    """13 splits, of which two must hold rows; all hold the same columns."""

    def row(split: str, label: str) -> dict[str, object]:
        return {
            "transcription": " Hello there. ", "emotion": "neutral", "gender": "female", "age": "29",
            "language": "english", "audio": audio(2.5), "dataset": label, "file_id": f"{split}_1.flac",
        }  # fmt: skip

    labels = {"crema_d": "Crema_D"}
    put_rows(root, **{split: [row(split, labels.get(split, split))] for split in SPLITS})


def globe_v3(root: Path) -> None:
    """A row that is kept, and one whose speaker's gender is predicted."""
    kept = {
        "common_voice_sentence": " Hi. ", "utmos": 4.035799026489258, "snr": 100.0,
        "common_voice_gender": "male_masculine", "predicted_gender": "x", "common_voice_accents": "Canadian English",
        "predicted_accent": "x", "common_voice_age": "twenties", "predicted_age": "x", "audio": audio(3.5),
        "common_voice_path": "b.mp3", "common_voice_sentence_id": "s2",
    }  # fmt: skip
    predicted = {**kept, "common_voice_gender": "nan", "common_voice_path": "a.mp3"}
    put_rows(root, train=[kept, predicted])


def ascend(root: Path) -> None:
    """Three languages."""
    text = " 我刚刚开始record "
    rows = [
        {"transcription": text, "language": language, "audio": audio(1.5), "id": f"{number:05d}",
         "path": f"waves/{number}.wav"}
        for number, language in enumerate(("mixed", "zh", "en"))
    ]  # fmt: skip
    put_rows(root, train=rows, test=rows[:1])


def disfluencyspeech(root: Path) -> None:
    """Four transcripts."""
    texts = ("{C but } uh, {F um, } okay", "the cat [ sat, + sat ] ¡laugh¿", "just words", "California only")
    put_rows(root, train=[{"transcript_annotated": text, "audio": audio(7.0)} for text in texts])


def asvspoof19(root: Path) -> None:
    """A genuine and two synthesised rows."""
    rows = [
        {"audio": audio(2.0), "system_id": system, "speaker_id": "LA_0079", "audio_file_name": f"LA_T_{number}"}
        for number, system in enumerate(("-", "A01", "A06"))
    ]
    put_rows(root, train=rows)


def amicorpus(root: Path) -> None:
    """Two meetings, and an utterance heard by the room's microphone, too."""
    spoken = [
        ("EN2001a", 44.0, 45.0, "FEO065", "LAST", "H01"),
        ("EN2001b", 1.0, 2.4, "FEO066", "'KAY", "H00"),
        ("EN2001a", 3.0, 4.0, "MEE068", " OKAY ", "H00"),
        ("EN2001a", 3.0, 4.0, "MEE068", " OKAY ", "SDM1"),
        ("EN2001a", 5.5, 7.0, "FEO065", "RIGHT", "H01"),
        ("EN2001a", 6.0, 43.0, "MEE068", "LONG", "H00"),
    ]
    names = ("meeting_id", "begin_time", "end_time", "speaker_id", "text", "microphone_id")
    rows = [{**dict(zip(names, row, strict=True)), "audio": audio(row[2] - row[1])} for row in spoken]
    put_rows(root, train=rows)


def audiocaps(root: Path) -> None:
    """Ids that sort as texts."""
    rows = [
        {"caption": " A dog barks ", "audio": audio(10.0), "audiocap_id": number, "youtube_id": video}
        for number, video in ((9, "yA"), (10, "yB"))
    ]
    put_rows(root, train=rows)


def audioset(root: Path) -> None:
    """One sample of the web dataset."""
    about = {"label": ["Music", "Exciting music"], "id": "vid1"}
    put_rows(root, "wav", train=[{"json": about, "wav": audio(10.0), "__key__": "k1"}])


def sonicmaster(root: Path) -> None:
    """A sung and an instrumental piece, and one of another split."""

    def row(name: str, kind: str, split: str, tracking: dict[str, list[str]]) -> dict[str, object]:
        meta = {
            "name": f"Song {name}", "genres": ["rock", "indie"], "vocalinstrumental": kind, "gender": "female",
            "vartags": ["fast", "loud"], "degradations": ["reverb", "eq"], "degradation_tracking": tracking,
            "split": split,
        }  # fmt: skip
        flac = audio(1.5, 44100, 2, "FLAC")
        return {"id": name, "meta": json.dumps(meta), "input_flac": flac, "input_sr": 44100, "gt_sr": 44100}

    tracking = {"Reverb": ["big"], "EQ": ["dark"], "Stereo": []}
    rows = [
        row("1", "vocal", "train", tracking),
        row("2", "instrumental", "train", {}),
        row("3", "vocal", "test", {}),
    ]
    put_rows(root, "input_flac", train=rows)


def heysquad_human(root: Path) -> None:
    """Two splits, each numbered by itself."""

    def row(number: str, impossible: bool, question: str) -> dict[str, object]:
        return {"audio": audio(1.0), "question": question, "context": "c", "id": number, "is_impossible": impossible}

    put_rows(root, train=[row("2", False, "q?"), row("10", True, "q2?")], validation=[row("5", False, "v?")])


def instructs2s(root: Path) -> None:
    """One conversation of three turns; rows and recordings lie apart."""
    turns = [
        {"from": "human", "text": "Hi", "speech": "data/en/wav/a/0.wav"},
        {"from": "gpt", "text": "Hello", "speech": ""},
        {"from": "human", "text": "More?", "speech": "data/en/wav/a/2.wav"},
    ]
    put_rows(root / "rows", train=[{"id": "helpful_base-1", "conversation": turns}])
    for number in (0, 2):
        put(root / f"en/wav/a/{number}.wav", audio(1.0))


HUB_SETS = {
    make.__name__: make
    for make in (
        cameo, globe_v3, ascend, disfluencyspeech, asvspoof19, amicorpus, audiocaps, audioset, sonicmaster,
        heysquad_human, instructs2s,
    )
}  # fmt: skip
