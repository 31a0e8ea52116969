"""Augmentation: every effect's physical measure, and the same samples for the same seed wherever they are made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from src.audio import effects
from src.audio.augment import AugmentConfig, Augmenter
from src.audio.codecs import CODECS
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass, compose
from src.common.errors import ConfigError

RATE = 16000
ALL = {
    "speed": {"factor": [0.8, 1.25]},
    "reverb": {"seconds": [0.1, 0.4]},
    "noise": {"snr": [0, 20], "colors": ["white", "pink", "brown"]},
    "gain": {"db": [-12, 12]},
    "codec": {"names": ["mp3", "opus", "mulaw"]},
}


def bind(**values: object) -> AugmentConfig:
    return bind_dataclass(AugmentConfig, values, "augment")


def tone(seconds: float = 1.0, hertz: float = 440.0, rate: int = RATE, level: float = 0.3) -> Waveform:
    time = torch.arange(round(seconds * rate)) / rate
    return Waveform(level * torch.sin(2 * math.pi * hertz * time)[None], rate)


def power_db(samples: Tensor) -> float:
    return 10 * math.log10(float(samples.double().pow(2).mean()))


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5])
def test_noise_has_the_ratio_that_is_asked_for(snr: float, slope: float) -> None:
    clip = tone()
    noisy = effects.noise(clip, snr, slope, seed=3)
    assert power_db(clip.samples) - power_db(noisy.samples - clip.samples) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(("slope", "expected"), [(0.0, 0.0), (1.0, -3.0), (2.0, -6.0)])
def test_colors_fall_by_so_many_db_for_each_octave(slope: float, expected: float) -> None:
    clip = Waveform(1e-6 * torch.ones(1, 1 << 17), RATE)
    noise = effects.noise(clip, -60, slope, seed=5).samples - clip.samples
    power = torch.fft.rfft(noise[0].double()).abs().pow(2)
    octaves = [float(power[1 << bits : 2 << bits].mean()) for bits in range(9, 16)]
    slopes = [10 * math.log10(after / before) for before, after in zip(octaves, octaves[1:], strict=False)]
    assert np.mean(slopes) == pytest.approx(expected, abs=0.4)


def test_noise_from_files_is_repeated_and_kept_at_its_ratio(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", 0.2 * np.sin(np.arange(2000) * 0.3), 8000)
    clip = tone(2.0)
    augmenter = Augmenter(bind(noise={"snr": [6, 6], "files": str(tmp_path)}), seed=1)
    draw = augmenter.draw("row")
    assert draw[0]["file"] == "hum.wav"
    added = augmenter.apply(clip, draw).samples - clip.samples
    assert power_db(clip.samples) - power_db(added) == pytest.approx(6, abs=0.01)
    assert float(added[0, -RATE // 4 :].abs().max()) > 0.01


def test_silence_stays_silent() -> None:
    clip = Waveform(torch.zeros(1, RATE), RATE)
    assert not effects.noise(clip, 10.0, seed=1).samples.any()
    assert not effects.reverb(clip, 0.3, 0.0, seed=1).samples.any()


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.17, 2.0])
def test_speed_changes_length_and_pitch_by_its_factor(factor: float) -> None:
    fast = effects.speed(tone(2.0, hertz=500.0), factor)
    assert fast.duration == pytest.approx(2.0 / factor, rel=1e-3)
    spectrum = torch.fft.rfft(fast.samples[0]).abs()
    assert int(spectrum.argmax()) * RATE / fast.samples.shape[-1] == pytest.approx(500.0 * factor, rel=0.01)


@pytest.mark.parametrize("db", [-20.0, 0.0, 6.0])
def test_gain_in_db(db: float) -> None:
    clip = tone()
    assert power_db(effects.gain(clip, db).samples) - power_db(clip.samples) == pytest.approx(db, abs=1e-3)


@pytest.mark.parametrize("seconds", [0.2, 0.6])
def test_reverb_decays_in_its_time_and_keeps_level_and_length(seconds: float) -> None:
    click = Waveform(torch.zeros(1, 2 * RATE), RATE)
    click.samples[0, 0] = 1.0
    wet = effects.reverb(click, seconds, direct=0.0, seed=7)
    assert wet.samples.shape == click.samples.shape
    assert power_db(wet.samples) == pytest.approx(power_db(click.samples), abs=0.01)
    # Schroeder: energy still to come falls by 60 dB in the reverberation time; measured from -5 to -25 dB
    tail = wet.samples[0, 1:].double()
    left = tail.pow(2).flip(0).cumsum(0).flip(0)
    level = 10 * torch.log10(left / left[0] + 1e-30)
    first, last = (int((level < bound).nonzero()[0]) for bound in (-5.0, -25.0))
    assert 3 * (last - first) / RATE == pytest.approx(seconds, rel=0.15)
    assert 10 * math.log10(float(wet.samples[0, 0] ** 2 / tail.pow(2).sum())) == pytest.approx(0.0, abs=0.1)


def test_reverb_from_a_measured_response_begins_at_its_peak(tmp_path: Path) -> None:
    response = np.zeros(4000)
    response[[700, 1500]] = 0.8, 0.4
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    click = Waveform(torch.zeros(1, RATE), RATE)
    click.samples[0, 10] = 1.0
    wet = effects.reverb(click, file=tmp_path / "room.wav").samples[0]
    assert wet.abs().topk(2).indices.tolist() == [10, 810]
    assert float(wet[810] / wet[10]) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_codecs_keep_the_length_and_lose_something(name: str) -> None:
    clip = tone(1.3, hertz=300.0, rate=24000)
    coded = effects.codec(clip, name, 32)
    assert coded.duration == pytest.approx(1.3, abs=1e-3)
    assert coded.sample_rate == (CODECS[name].rate or 24000)
    spectrum = torch.fft.rfft(coded.samples[0]).abs()
    assert int(spectrum.argmax()) / coded.duration == pytest.approx(300.0, abs=3)
    assert power_db(coded.samples) == pytest.approx(power_db(clip.samples), abs=3)


def test_fewer_kilobits_lose_more() -> None:
    noise = Waveform(0.2 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)), RATE)
    errors = [power_db(effects.codec(noise, "mp3", kbps).samples - noise.samples) for kbps in (16, 64)]
    assert errors[0] > errors[1] + 3


def test_same_seed_and_key_give_equal_samples_and_others_differ() -> None:
    config, clip = bind(**ALL), tone()
    one, other = Augmenter(config, seed=3), Augmenter(config, seed=3)
    assert one.draw("a") == other.draw("a")
    assert torch.equal(one.change("a", clip).samples, other.change("a", clip).samples)
    draws = [
        json.dumps(each) for each in (one.draw("a"), one.draw("b"), one.draw("a", 1), Augmenter(config, 4).draw("a"))
    ]
    assert len(set(draws)) == 4
    assert [each["effect"] for each in one.draw("a")] == list(AugmentConfig.order)


def test_leaving_an_effect_out_does_not_change_the_others() -> None:
    whole = Augmenter(bind(**ALL), 3).draw("a")
    without = Augmenter(bind(**{name: value for name, value in ALL.items() if name != "reverb"}), 3).draw("a")
    assert without == [each for each in whole if each["effect"] != "reverb"]


def test_values_stay_in_their_ranges_and_shares_are_kept() -> None:
    config = bind(noise={"snr": [5, 10], "probability": 0.5}, probability=0.5)
    draws = [Augmenter(config, 0).draw(str(key)) for key in range(2000)]
    used = [draw[0]["snr"] for draw in draws if draw]
    assert len(used) / 2000 == pytest.approx(0.25, abs=0.04)
    assert min(used) >= 5 and max(used) <= 10 and max(used) - min(used) > 4.5


def test_without_effects_the_clip_is_the_same_object() -> None:
    clip = tone()
    assert Augmenter(AugmentConfig(), 0).change("a", clip) is clip and not AugmentConfig().active


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise": {"snr": [10, 5]}}, r"snr is \[10.0, 5.0\]"),
        ({"noise": {"colors": ["purple"]}}, "colors: got purple"),
        ({"noise": {"files": "/nowhere"}}, "no recordings"),
        ({"codec": {"names": ["mp4"]}}, "names: got mp4"),
        ({"speed": {"factor": [0, 1]}}, "factor"),
        ({"gain": {"decibel": [0, 1]}}, "decibel"),
        ({"probability": 2}, "probability"),
    ],
)
def test_wrong_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind(**values)


@pytest.mark.parametrize(("program", "given"), [("train", ["model=mini_whisper", "dataset=mini"]), ("generate", [])])
def test_shipped_groups_and_single_keys_on_the_command_line(program: str, given: list[str]) -> None:
    def config(*words: str) -> AugmentConfig:
        return bind(**compose(program, [*given, *words])["augment"])

    assert not config().active
    assert all(config(f"augment={name}").active for name in ("train", "noise", "phone", "room"))
    mixed = config("augment=room", "augment.noise=null", "augment.codec={names:[amr]}", "augment.reverb.direct=[0,0]")
    assert mixed.noise is None and mixed.codec is not None and mixed.codec.names == ["amr"]
    assert mixed.reverb is not None and (mixed.reverb.direct, mixed.reverb.seconds) == ([0.0, 0.0], [0.6, 1.2])
    assert config("augment.noise={snr:[0,5]}").digest() != config("augment.noise={snr:[0,6]}").digest()
