"""Imitations of speech corpora that are trees of files."""

from __future__ import annotations

from pathlib import Path

from tests.support.upstream.writing import audio, put, put_table


def vctk(root: Path) -> None:
    """Three speakers, one without folders; one text without a recording."""
    folder = root / "VCTK-Corpus"
    put(
        folder / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n"
        "315  18  M    American   New England (no text)\n248  23  F    Indian\n",
    )
    for speaker in ("225", "248"):
        put(folder / f"txt/p{speaker}/p{speaker}_001.txt", "Please call Stella.\n")
        put(folder / f"wav48/p{speaker}/p{speaker}_001.wav", audio(2.1, 48000))
    put(folder / "txt/p225/p225_002.txt", "No recording.\n")


def vocalsound(root: Path) -> None:
    """A training speaker, another, and a file that cannot be decoded."""
    put(root / "meta/tr_meta.csv", "f0003,female,58,USA,English,no\nm0600,male,19,India,Hindi,yes\n")
    for name in ("f0003_0_laughter", "f0003_0_throatclearing", "m9999_0_sigh"):
        put(root / f"audio_16k/{name}.wav", audio(1.5))
    put(root / "audio_16k/m0600_0_sniff.wav", b"RIFF")


def nisqa(root: Path) -> None:
    """A row of each training part, and one of the validation part."""
    folder = root / "NISQA_Corpus"
    about = {"mos": 3.14159, "noi": 2.5, "col": 3.0, "dis": 4.2222, "loud": 3, "con_description": "white noise"}
    rows = [
        {"db": "NISQA_TRAIN_SIM", "filename_deg": "b.wav", **about},
        {"db": "NISQA_TRAIN_LIVE", "filename_deg": "a.wav", **about, "mos": 3, "con_description": ""},
        {"db": "NISQA_VAL_SIM", "filename_deg": "c.wav", **about},
    ]
    put_table(folder / "NISQA_corpus_file.csv", rows)
    for row in rows:
        put(folder / f"{row['db']}/deg/{row['filename_deg']}", audio(3.5, 48000))


def mucs(root: Path) -> None:
    """A recording of either language, cut into utterances; the Bengali one has two channels at 8 kHz."""
    for language, rate, channels in (("Hindi-English", 16000, 1), ("Bengali-English", 8000, 2)):
        folder, short = root / language / "train", language[0]
        segments = f"{short}_u1 {short}_rec 0.5 2.0\n{short}_u2 {short}_rec 2.0 4.50009\n"
        put(folder / "transcripts/segments", segments)
        put(folder / "transcripts/text", f"{short}_u1 hello {short}_u1 \n{short}_u2  दुनिया world\n")
        put(folder / f"{short}_rec.wav", audio(5.0, rate, channels))


def mls(root: Path) -> None:
    """Two utterances of German, one of the other languages."""
    from src.corpus.recipes.mls import LANGUAGES

    for language in LANGUAGES:
        folder = root / language / f"mls_{language}_opus"
        put(folder / "metainfo.txt", "SPEAKER   |   GENDER   | PARTITION\n10  |  F  | train\n20 | M | dev\n")
        names = ("10_5_000001", "20_6_000000") if language == "german" else ("10_5_000001",)
        put(folder / "train/transcripts.txt", "".join(f"{name}\t ein  satz \n" for name in names))
        for name in names:
            speaker, book, _ = name.split("_")
            put(folder / f"train/audio/{speaker}/{book}/{name}.opus", audio(1.5, kind="FLAC"))


def librispeech(root: Path) -> None:
    """One speaker of the first subset; the others are there and empty."""
    folder = root / "LibriSpeech"
    put(folder / "SPEAKERS.TXT", "; comment\n14   | F | train-clean-100  | 25.03 | A | B\n")
    put(folder / "train-clean-100/14/208/14-208.trans.txt", "14-208-0000 CHAPTER ONE\n14-208-0001 TWO\n")
    for number in (0, 1):
        put(folder / f"train-clean-100/14/208/14-208-000{number}.flac", audio(15.5, kind="FLAC"))
    for subset in ("train-clean-360", "train-other-500"):
        (folder / subset).mkdir()


def asvspoof5(root: Path) -> None:
    """Three lines of the protocol."""
    lines = "".join(
        f"T_4850 T_000000000{number} F - - - x {system} y -\n"
        for number, system in enumerate(("A05", "bonafide", "A08"))
    )
    put(root / "ASVspoof5.train.tsv", lines)
    for number in range(3):
        put(root / f"flac_T/T_000000000{number}.flac", audio(2.5, kind="FLAC"))


def noisy_vctk(root: Path) -> None:
    """Two utterances of one set, one of the other."""
    folder = root / "raw_data"
    logs = {"trainset_28spk": ["p226_001 cafe 10", "p226_002 ssn 5"], "trainset_56spk": ["p234_001 babble 0"]}
    for part, lines in logs.items():
        put(folder / f"log_{part}.txt", "\n".join(lines) + "\n")
        for name in (line.split()[0] for line in lines):
            put(folder / f"{part}_txt/{name}.txt", "Please.\n")
            put(folder / f"noisy_{part}_wav/{name}.wav", audio(1.6, 48000))
            put(folder / f"clean_{part}_wav/{name}.wav", audio(1.4, 48000))


SPEECH = {
    make.__name__: make
    for make in (vctk, vocalsound, nisqa, mucs, mls, librispeech, asvspoof5, noisy_vctk)
}  # fmt: skip
