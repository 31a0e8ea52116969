"""Creates ``assets/mini/sounds``: a small, labelled subset of a public-domain sample collection.

The table below assigns samples to classes. Samples joined by ``+`` are takes of one source (one drum hit hard and
softly, one break at two lengths): they count as one recording and belong to one split.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchaudio

from examples.miniature.world.flac import encode_flac
from examples.miniature.world.synthesis import SAMPLE_RATE
from src.common.errors import UserError
from src.common.log import get_logger
from src.download.unpack import unpack

PACKAGE = "supersonic-scsynth-samples"
VERSION = "0.84.2"
MAX_SECONDS = 1.5
_MAX_EXCERPTS = 4
_SPLIT_SEED = 0
_SILENCE = 0.02
_HELD_OUT_SHARE = 0.2

SAMPLES = {
    "kick": "bd_808 bd_ada bd_boom bd_chip bd_fat bd_gas bd_haus bd_jazz bd_klub bd_mehackit bd_pure bd_sone bd_tek "
    "bd_zome bd_zum drum_bass_hard+drum_bass_soft drum_heavy_kick elec_hollow_kick elec_soft_kick",
    "hi-hat": "hat_bdu hat_cab hat_cats hat_gem hat_gnu hat_gump hat_hier hat_len hat_mess hat_noiz hat_psych "
    "hat_raw hat_sci hat_snap hat_star hat_tap hat_yosh hat_zan hat_zap hat_zild "
    "drum_cymbal_closed+drum_cymbal_pedal tbd_perc_hat",
    "cymbal": "drum_cymbal_hard+drum_cymbal_soft drum_cymbal_open drum_splash_hard+drum_splash_soft ride_tri "
    "ride_via",
    "tabla": "tabla_ghe1 tabla_ghe2 tabla_ghe3 tabla_ghe4 tabla_ghe5 tabla_ghe6 tabla_ghe7 tabla_ghe8 tabla_na "
    "tabla_na_o tabla_tas2 tabla_tas3 tabla_tun1 tabla_tun2 tabla_tun3",
    "drum loop": "loop_amen+loop_amen_full loop_breakbeat loop_mehackit1 loop_mehackit2 loop_perc1 loop_perc2 "
    "loop_compus loop_mika loop_industrial loop_safari loop_garzul arovane_beat_a+arovane_beat_b arovane_beat_c "
    "arovane_beat_d+arovane_beat_e",
    "robot voice": "mehackit_robot1 mehackit_robot2 mehackit_robot3 mehackit_robot4 mehackit_robot5 mehackit_robot6 "
    "mehackit_robot7 glitch_robot1 glitch_robot2",
}
"""Samples of the package by class, one recording per word."""

_SEVERAL_EXCERPTS = ("drum loop", "robot voice")


@dataclass(frozen=True)
class Sound:
    """One excerpt: its file, class, the recording it comes from, that recording's split, and the source file."""

    file: str
    name: str
    recording: str
    split: str
    source: str


@contextmanager
def fetched_package(folder: Path | None) -> Iterator[Path]:
    """``folder`` itself, or the package fetched by ``npm pack`` into a temporary folder.

    Raises:
        UserError: if npm is missing or cannot fetch.
    """
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", scratch]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or error
            hint = "give an unpacked package by --from-dir"
            raise UserError(f"`{' '.join(command)}` failed: {reason}; {hint}") from error
        unpack(next(Path(scratch).glob("*.tgz")), Path(scratch))
        yield Path(scratch) / "package"


def make_sounds(package: Path, output: Path) -> list[Sound]:
    """Write the excerpts, ``sounds.json``, the licence and the provenance of ``package`` below ``output``.

    Args:
        package: the unpacked npm package, with ``samples/*.flac``, ``LICENSE`` and ``PROVENANCE.md``.
        output: folder that is replaced.

    Raises:
        UserError: if a file of the package is missing.
    """
    _check_package(package)
    shutil.rmtree(output, ignore_errors=True)
    (output / "flac").mkdir(parents=True)
    sounds: list[Sound] = []
    for name in SAMPLES:
        for recording, split in split_recordings(name).items():
            for source in recording.split("+"):
                for place, excerpt in enumerate(_excerpts(package / "samples" / f"{source}.flac", name)):
                    file = f"flac/{source}_{place}.flac"
                    _write_flac(output / file, excerpt)
                    sounds.append(Sound(file, name, recording, split, f"samples/{source}.flac"))
    record = {
        "package": f"{PACKAGE}@{VERSION}",
        "sample_rate": SAMPLE_RATE,
        "sounds": [asdict(sound) for sound in sounds],
    }
    (output / "sounds.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for text in ("LICENSE", "PROVENANCE.md"):
        shutil.copyfile(package / text, output / text)
    get_logger(__name__).info("%d excerpts of %d recordings in %s", len(sounds), _count(sounds), output)
    return sounds


def split_recordings(name: str) -> dict[str, str]:
    """Split of every recording of a class, by a fixed draw: a fifth to test (at least one), 1 or 2 to validation."""
    recordings = SAMPLES[name].split()
    random.Random(f"{_SPLIT_SEED}:{name}").shuffle(recordings)
    held_out = max(1, round(_HELD_OUT_SHARE * len(recordings)))
    splits = ["test"] * held_out + ["validation"] * min(held_out, 2)
    return {
        recording: splits[place] if place < len(splits) else "train" for place, recording in enumerate(recordings)
    }


def _count(sounds: list[Sound]) -> int:
    return len({sound.recording for sound in sounds})


def _check_package(package: Path) -> None:
    wanted = [f"samples/{source}.flac" for text in SAMPLES.values() for source in text.replace("+", " ").split()]
    missing = [file for file in [*wanted, "LICENSE", "PROVENANCE.md"] if not (package / file).is_file()]
    if missing:
        raise UserError(
            f"{package} lacks {missing[0]} and {len(missing) - 1} more of the {len(wanted) + 2} files needed; "
            f"expected the unpacked npm package {PACKAGE}@{VERSION}: give its folder with --from-dir, or leave that "
            "out to fetch it"
        )


def _excerpts(path: Path, name: str) -> Iterator[torch.Tensor]:
    """Mono excerpts (samples,) of one file at 24 kHz: the sounding part, or some stretches spread over a long one."""
    samples, rate = torchaudio.load(path)
    mono = torchaudio.functional.resample(samples.mean(0), rate, SAMPLE_RATE)
    mono = mono / mono.abs().max()
    sounding = torch.nonzero(mono.abs() > _SILENCE).flatten()
    mono = mono[max(0, int(sounding[0]) - SAMPLE_RATE // 200) : int(sounding[-1]) + 1]
    length = int(MAX_SECONDS * SAMPLE_RATE)
    count = min(_MAX_EXCERPTS, len(mono) // length) if name in _SEVERAL_EXCERPTS else 1
    for place in range(max(count, 1)):
        start = place * (len(mono) - length) // max(count - 1, 1) if len(mono) > length else 0
        excerpt = mono[start : start + length].clone()
        fade = min(SAMPLE_RATE // 50, len(excerpt) // 4)
        excerpt[-fade:] *= torch.linspace(1, 0, fade)
        yield 0.9 * excerpt / excerpt.abs().max()


def _write_flac(path: Path, samples: torch.Tensor) -> None:
    path.write_bytes(encode_flac(samples.numpy()))
