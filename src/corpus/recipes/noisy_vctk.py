"""Noisy VCTK: sentences with added noise, and the same without."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from src.corpus.recipe import WAV_48, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import lines

SETS = ("trainset_28spk", "trainset_56spk")
SHAPED = "simulated speech-shaped noise (filtered white noise)"
BASE = "https://datashare.ed.ac.uk/bitstream/handle/10283/2791"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """Two rows for each line of the logs: with noise, and clean."""
    root = inputs.path("raw_data")
    for part in SETS:
        listed = lines(root / f"log_{part}.txt", without_last=inputs.options.as_published)
        yield from _of_set(root, part, listed)


def _of_set(root: Path, part: str, listed: list[str]) -> Iterator[Draft | Dropped]:
    make = functools.partial(_drafts, root, part)
    yield from each_row(listed, lambda line: (f"{part}_{line.split()[0]}", line), make)


def _drafts(root: Path, part: str, line: str) -> Iterator[Draft]:
    name, noise, snr = line.split()
    noise = SHAPED if noise == "ssn" else noise
    text = (root / f"{part}_txt" / f"{name}.txt").read_text(encoding="utf-8").strip()
    clean = "there is no noise - the audio is clean"
    for folder, noise_description, level, key in (
        (f"noisy_{part}_wav", noise, snr, f"{noise}_{snr}"),
        (f"clean_{part}_wav", clean, "100", f"clean_{snr}"),
    ):
        ids = f"{part}_{name}", key
        fields = {"noise description": noise_description, "snr": level, "train_set_f_id": ids[0], "noise_snr": key}
        yield Draft(*ids, text, fields, root / folder / f"{name}.wav")


def _archive(name: str, sequence: int, yields: str) -> tuple[str, str]:
    return f"{BASE}/{name}.zip?sequence={sequence}&isAllowed=y", f"raw_data/{yields}"


RECIPE = Recipe(
    name="noisy_vctk",
    title="Noisy VCTK",
    sources=tuple(
        web(*_archive(name, sequence, yields), into="raw_data")
        for name, sequence, yields in (
            ("logfiles", 4, "log_trainset_28spk.txt"),
            ("noisy_trainset_28spk_wav", 6, "noisy_trainset_28spk_wav"),
            ("noisy_trainset_56spk_wav", 7, "noisy_trainset_56spk_wav"),
            ("clean_trainset_28spk_wav", 2, "clean_trainset_28spk_wav"),
            ("clean_trainset_56spk_wav", 3, "clean_trainset_56spk_wav"),
            ("trainset_28spk_txt", 9, "trainset_28spk_txt"),
            ("trainset_56spk_txt", 10, "trainset_56spk_txt"),
        )
    ),
    work=file_rows(drafts),
    text_type="speech",
    description=("noise description", "snr"),
    columns=columns(
        "audio_description | duration | text | noise description | snr | audio | train_set_f_id | "
        "unique_id_1 | noise_snr | unique_id_2 | dataset_index"
    ),
    rows=69290,
    hours=56.84,
    gb_per_hour=WAV_48,
    licence="CC BY 4.0",
    repairs=("the last line of both logs is kept (4 rows more; published: it is not read, blank or not)",),
)
