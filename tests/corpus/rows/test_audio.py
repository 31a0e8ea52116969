"""Files of several formats heard: durations, cuts, rates, and what cannot be heard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from src.audio.decode import decode
from src.common.errors import UserError
from src.corpus.rows.audio import Cuts, encode_wav, read_mono, seconds_of, to_rate
from tests.support.upstream.writing import audio, put


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2)])
def test_durations_are_decoded_samples_by_the_own_rate(kind: str, rate: int, channels: int, tmp_path: Path) -> None:
    put(tmp_path / "a", audio(1.2345, rate, channels, kind))
    expected = round(1.2345 * rate) / rate
    assert seconds_of(tmp_path / "a") == seconds_of(audio(1.2345, rate, channels, kind), "a") == expected
    found = decode(tmp_path / "a")
    samples, own = found.samples, found.rate
    assert samples.shape == (channels, round(expected * rate)) and own == rate


@pytest.mark.parametrize("ending", ["mp3", "m4a", "ogg"])
def test_compressed_formats(ending: str, tmp_path: Path) -> None:
    from torch import from_numpy
    from torchcodec.encoders import AudioEncoder

    tone = soundfile.read(io.BytesIO(audio(2.0, 48000)), dtype="float32")[0][None]
    AudioEncoder(from_numpy(tone), sample_rate=48000).to_file(str(tmp_path / f"a.{ending}"))
    assert seconds_of(tmp_path / f"a.{ending}") == pytest.approx(2.0, abs=0.06)
    heard = read_mono(tmp_path / f"a.{ending}")
    assert heard.size == pytest.approx(32000, abs=1000) and np.abs(heard).max() == pytest.approx(0.1, abs=0.02)


def test_mono_is_the_mean_and_resampled() -> None:
    stereo = np.stack([np.full(4410, 0.5), np.zeros(4410)], axis=1)
    data = io.BytesIO()
    soundfile.write(data, stereo, 44100, format="WAV")
    heard = read_mono(data.getvalue(), "a.wav")
    assert heard.shape == (1600,) and heard[800] == pytest.approx(0.25, abs=1e-3)
    assert to_rate(np.zeros((2, 0), np.float32), 8000).shape == (2, 0)


def test_written_files_round_to_the_nearest_step() -> None:
    steps = np.array([0.0, 1.4, -1.6, 32767.0, 40000.0, -40000.0], np.float32) / 32768
    data, rate = soundfile.read(io.BytesIO(encode_wav(steps)), dtype="int16")
    assert data.tolist() == [0, 1, -2, 32767, 32767, -32768] and rate == 16000
    with pytest.raises(UserError, match="no audio samples"):
        encode_wav(np.zeros(0, np.float32))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_cuts_equal_the_whole(kind: str, tmp_path: Path) -> None:
    ramp = np.linspace(-0.5, 0.5, 16000)
    soundfile.write(tmp_path / "a", ramp, 16000, format=kind)
    whole, cuts = decode(tmp_path / "a").samples, Cuts(tmp_path / "a")
    for start, stop in ((0, 10), (5000, 9000), (15990, 17000), (9000, 9000), (20000, 30000)):
        assert np.array_equal(cuts.read(start, stop), whole[:, start:stop])


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"RIFFxxxx", "cannot be read"), (b"no audio at all", "cannot be read")]
)
def test_what_cannot_be_heard_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    put(tmp_path / "bad.wav", content)
    for hear in (seconds_of, decode, Cuts):
        with pytest.raises(UserError, match=f"bad.wav.*{message}"):
            hear(tmp_path / "bad.wav")
    with pytest.raises(UserError, match="gone.wav"):
        seconds_of(tmp_path / "gone.wav")
    with pytest.raises(UserError, match="no audio samples"):
        seconds_of(audio(0.0), "silent.wav")
