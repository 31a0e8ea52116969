"""Noisy VCTK: sentences with added noise, and the same without."""

from __future__ import annotations

from collections.abc import Iterator

from src.corpus.recipe import WAV_48, Draft, Dropped, Inputs, Recipe, columns, web
from src.corpus.rows.make import each_row, file_rows
from src.corpus.rows.tables import lines

SETS = ("trainset_28spk", "trainset_56spk")
SHAPED = "simulated speech-shaped noise (filtered white noise)"
BASE = "https://datashare.ed.ac.uk/bitstream/handle/10283/2791"


def drafts(inputs: Inputs) -> Iterator[Draft | Dropped]:
    """Two rows for each line of the logs: with noise, and clean."""
    root = inputs.path("raw_data")

    def pair(each: tuple[str, str]) -> Iterator[Draft]:
        part, line = each
        name, noise, snr = line.split()
        noise = SHAPED if noise == "ssn" else noise
        text = (root / f"{part}_txt" / f"{name}.txt").read_text(encoding="utf-8").strip()
        for kind, description, level, key in (
            ("noisy", noise, snr, f"{noise}_{snr}"),
            ("clean", "there is no noise - the audio is clean", "100", f"clean_{snr}"),
        ):
            ids = f"{part}_{name}", key
            fields = {"noise description": description, "snr": level, "train_set_f_id": ids[0], "noise_snr": key}
            yield Draft(*ids, text, fields, root / f"{kind}_{part}_wav" / f"{name}.wav")

    logs = ((part, lines(root / f"log_{part}.txt", without_last=inputs.options.as_published)) for part in SETS)
    listed = ((part, line) for part, log in logs for line in log)
    yield from each_row(listed, lambda each: (f"{each[0]}_{each[1].split()[0]}", each[1]), pair)


RECIPE = Recipe(
    name="noisy_vctk",
    title="Noisy VCTK",
    sources=tuple(
        web(f"{BASE}/{name}.zip?sequence={sequence}&isAllowed=y", f"raw_data/{yields or name}", into="raw_data")
        for name, sequence, yields in (
            ("logfiles", 4, "log_trainset_28spk.txt"),
            ("noisy_trainset_28spk_wav", 6, ""),
            ("noisy_trainset_56spk_wav", 7, ""),
            ("clean_trainset_28spk_wav", 2, ""),
            ("clean_trainset_56spk_wav", 3, ""),
            ("trainset_28spk_txt", 9, ""),
            ("trainset_56spk_txt", 10, ""),
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
