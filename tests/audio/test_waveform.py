"""Every form of audio that can be loaded, and the message for each that cannot."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from src.audio.waveform import Waveform, load_waveform
from src.common.errors import UserError

RATE = 16000


def wav_bytes(channels: int = 1, count: int = 800) -> bytes:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(count) / RATE) * 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.repeat(tone[:, None], channels, axis=1).tobytes())
    return stream.getvalue()


@pytest.fixture
def wav_file(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_bytes())
    return path


def test_path_bytes_cell_and_decoder_agree(wav_file: Path) -> None:
    from torchcodec.decoders import AudioDecoder

    encoded = wav_file.read_bytes()
    loaded = load_waveform(wav_file)
    assert loaded.samples.shape == (1, 800) and loaded.samples.dtype == torch.float32
    assert loaded.sample_rate == RATE and loaded.duration == pytest.approx(0.05)
    assert loaded.samples.abs().max() == pytest.approx(0.5, abs=1e-2)
    sources = [str(wav_file), encoded, {"bytes": encoded, "path": None}, {"bytes": None, "path": str(wav_file)}]
    for source in [*sources, AudioDecoder(encoded), loaded]:
        assert torch.equal(load_waveform(source).samples, loaded.samples)


def test_stereo_keeps_its_channels() -> None:
    loaded = load_waveform(wav_bytes(channels=2))
    assert loaded.samples.shape == (2, 800)
    assert loaded.mono.shape == (800,)


def test_arrays() -> None:
    samples = np.linspace(-1, 1, 50, dtype=np.float64)
    assert load_waveform(samples, RATE).samples.shape == (1, 50)
    assert load_waveform({"array": samples, "sampling_rate": RATE}).sample_rate == RATE
    assert load_waveform(np.stack([samples, samples]), RATE).samples.shape == (2, 50)
    assert load_waveform(np.stack([samples, samples], axis=1), RATE).samples.shape == (2, 50)
    assert load_waveform(torch.zeros(3), RATE).samples.shape == (1, 3)
    integers = load_waveform(np.array([-32768, 0, 16384], dtype=np.int16), RATE)
    assert integers.samples.tolist() == [[-1.0, 0.0, 0.5]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", r"empty \(0 bytes\)"), (b"not audio at all", "cannot be read as audio")],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "broken.flac"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"broken.flac.*{reason}"):
        load_waveform(path)


def test_files_without_samples_and_cut_files_are_named(tmp_path: Path) -> None:
    silent = tmp_path / "nothing.wav"
    silent.write_bytes(wav_bytes(count=0))
    cut = tmp_path / "cut.wav"
    cut.write_bytes(wav_bytes()[:30])
    for path in (silent, cut):
        with pytest.raises(UserError, match=path.name):
            load_waveform(path)
    with pytest.raises(UserError, match="is a folder"):
        load_waveform(tmp_path)


def test_other_mistakes() -> None:
    with pytest.raises(UserError, match="sampling rate None"):
        load_waveform(np.zeros(5))
    with pytest.raises(UserError, match="no audio samples"):
        load_waveform(np.zeros(0), RATE)
    with pytest.raises(UserError, match="not finite"):
        load_waveform(np.array([0.0, np.nan]), RATE)
    with pytest.raises(UserError, match="shape"):
        load_waveform(np.zeros((2, 2, 2)), RATE)
    with pytest.raises(UserError, match="got int"):
        load_waveform(3)
    with pytest.raises(UserError, match="keys"):
        load_waveform({"sound": 1})
    with pytest.raises(UserError, match="no audio samples"):
        load_waveform(Waveform(torch.zeros(1, 0), RATE))
