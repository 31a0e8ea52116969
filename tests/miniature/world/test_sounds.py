"""The shipped sounds: splits without leaks, sizes, licence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from examples.miniature.world.curation import MAX_SECONDS, SAMPLES, make_sounds, split_recordings
from examples.miniature.world.flac import encode_flac, read_flac
from examples.miniature.world.sounds import SOUNDS_DIR, SoundLibrary, load_sounds
from examples.miniature.world.synthesis import (
    SAMPLE_RATE,
    SPLITS,
    SYNTHETIC_NAMES,
    main_frequency,
    split_of_frequency,
    synthesize,
)
from src.common.errors import UserError

ROWS = json.loads((SOUNDS_DIR / "sounds.json").read_text())["sounds"]


@pytest.fixture(scope="module")
def library() -> SoundLibrary:
    return load_sounds()


def test_a_recording_lies_in_one_split() -> None:
    splits: dict[str, set[str]] = {}
    for row in ROWS:
        for key in (row["recording"], row["source"]):
            splits.setdefault(key, set()).add(row["split"])
    assert all(len(each) == 1 for each in splits.values())


def test_table_and_shipped_files_agree() -> None:
    shipped = {(row["name"], row["recording"], row["split"]) for row in ROWS}
    assert shipped == {(name, *pair) for name in SAMPLES for pair in split_recordings(name).items()}
    assert {row["file"] for row in ROWS} == {f"flac/{path.name}" for path in (SOUNDS_DIR / "flac").iterdir()}


def test_two_takes_of_one_drum_are_one_recording() -> None:
    splits = {row["source"]: row["split"] for row in ROWS}
    assert splits["samples/drum_bass_hard.flac"] == splits["samples/drum_bass_soft.flac"]
    assert splits["samples/loop_amen.flac"] == splits["samples/loop_amen_full.flac"]


def test_every_class_has_every_split(library: SoundLibrary) -> None:
    assert len(library.names) >= 10
    assert {(r.name, r.split) for r in library.recordings} >= {(name, split) for name in SAMPLES for split in SPLITS}


def test_shipped_size_licence_and_lengths(library: SoundLibrary) -> None:
    assert sum(path.stat().st_size for path in SOUNDS_DIR.rglob("*") if path.is_file()) <= 6_000_000
    assert "CC0 1.0 Universal" in (SOUNDS_DIR / "LICENSE").read_text()
    assert "freesound.org" in (SOUNDS_DIR / "PROVENANCE.md").read_text()
    lengths = [len(excerpt) / SAMPLE_RATE for each in library.recordings for excerpt in each.excerpts]
    assert max(lengths) <= MAX_SECONDS and min(lengths) > 0.02


@pytest.mark.parametrize("name", SYNTHETIC_NAMES)
def test_families_keep_frequencies_of_other_splits_out(name: str) -> None:
    rng = np.random.default_rng(0)
    for split in SPLITS:
        frequencies = [main_frequency(name, split, rng) for _ in range(100)]
        assert {split_of_frequency(name, each) for each in frequencies} == {split}
        sound = synthesize(name, frequencies[0], rng)
        assert sound.dtype == np.float32 and 0.3 < len(sound) / SAMPLE_RATE < 1.2 and np.isfinite(sound).all()


def test_sweeps_go_where_their_names_say() -> None:
    rng = np.random.default_rng(1)
    for name, sign in (("rising sweep", 1), ("falling sweep", -1)):
        sound = synthesize(name, main_frequency(name, "train", rng), rng)
        peaks = [np.abs(np.fft.rfft(part, SAMPLE_RATE)).argmax() for part in (sound[1000:3000], sound[-3000:-1000])]
        assert np.sign(peaks[1] - peaks[0]) == sign


def test_flac_round_trip_is_within_one_step_of_16_bits() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    assert np.abs(read_flac(encode_flac(samples)) - samples).max() <= 2**-15


def test_unusable_sources_end_in_one_message(tmp_path) -> None:
    with pytest.raises(UserError, match="make_sounds.py"):
        load_sounds(tmp_path)
    with pytest.raises(UserError, match="lacks samples/"):
        make_sounds(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="cannot read the sound"):
        read_flac(tmp_path / "absent.flac")
