"""Feature extraction: independence of the batch, short clips, padding, resampling, devices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from src.audio.config import FEATURE_LENGTHS, FEATURES, MINIMUM_SECONDS, FeatureConfig
from src.audio.features import AudioFeatureExtractor
from src.audio.resample import CACHE_BYTES, _bands, _Kept, _kept, resample
from src.audio.spectral import prefix_mask
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError

MINI = {
    "muq": FeatureConfig("muq", 24000, 96000),
    "sslam": FeatureConfig("sslam", 16000, 400),
    "w2vbert": FeatureConfig("w2vbert", 16000, 200, 80),
    "whisper": FeatureConfig("whisper", 16000, 400, 80),
}


def clip(seconds: float, rate: int = 24000, channels: int = 1, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    count = round(seconds * rate)
    return Waveform(0.1 * torch.randn(channels, count, generator=generator), rate)


MIXED = [clip(3.0), clip(0.05, 8000, 1, 1), clip(5.3, 44100, 2, 2), clip(1.234, 16000, 1, 3), clip(4.0, 24000, 3, 4)]


def test_a_batch_equals_its_clips_one_by_one() -> None:
    extractor = AudioFeatureExtractor(MINI)
    batch = extractor(MIXED)
    assert list(batch) == ["muq", "sslam", "w2vbert", "whisper"]
    for index, waveform in enumerate(MIXED):
        for name, alone in extractor([waveform]).items():
            frames = alone.features.shape[1]
            together = batch[name]
            torch.testing.assert_close(together.features[index, :frames], alone.features[0], atol=2e-4, rtol=0)
            assert not together.features[index, frames:].any(), name
            assert together.lengths[index] == alone.lengths[0] == together.mask[index].sum(), name
            assert together.mask[index, : together.lengths[index]].all(), name


EVERY_KIND = {
    **MINI,
    "samples": FeatureConfig("samples", 16000, 64000),
    "waveform": FeatureConfig("waveform", 16000, 64000),
    "ast": FeatureConfig("spectrogram", 16000, 1024, extractor={"feature_extractor_type": "ASTFeatureExtractor"}),
    "clap": FeatureConfig(
        "spectrogram", 48000, 1001, 64, extractor={"feature_extractor_type": "ClapFeatureExtractor"}
    ),
    "own": FeatureConfig("tests.audio.test_features:every_third", 16000, 3),
}


def every_third(samples: Tensor, lengths: Tensor, config: FeatureConfig) -> tuple[Tensor, Tensor, Tensor]:
    """A kind of a user's own."""
    frames = lengths // 3
    return samples[:, ::3, None], prefix_mask(frames, -(-samples.shape[1] // 3)), frames


def test_every_shipped_kind_has_lengths() -> None:
    assert set(FEATURE_LENGTHS.names) == set(FEATURES.names)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
@pytest.mark.parametrize("samples", [1, 399, 400, 401, 16000, 33333])
def test_lengths_are_those_of_the_features(samples: int, rate: int) -> None:
    extractor = AudioFeatureExtractor(EVERY_KIND)
    features = extractor([clip(samples / rate, rate)])
    lengths = extractor.lengths(samples, rate)
    assert {name: each.tolist() for name, each in lengths.items()} == {
        name: each.lengths.tolist() for name, each in features.items()
    }


def test_lengths_cost_no_computation() -> None:
    with FlopCounterMode(display=False) as counter:
        AudioFeatureExtractor(MINI).lengths(44100 * 300, 44100)
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize("samples", [1, 2, 79, 80, 239, 240, 480, 481, 640])
@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100])
def test_clips_below_the_minimum_are_padded_to_one_frame_at_25_hz(samples: int, rate: int) -> None:
    features = AudioFeatureExtractor(MINI)([clip(samples / rate, rate)])
    for name, item in features.items():
        assert torch.isfinite(item.features).all(), name
    assert features["whisper"].lengths // 4 >= 1
    assert features["sslam"].lengths // 4 >= 1
    assert features["w2vbert"].lengths // 2 >= 1
    assert features["muq"].lengths // 960 >= 1


def test_silence_is_finite() -> None:
    for name, item in AudioFeatureExtractor(MINI)([Waveform(torch.zeros(1, 24000), 24000)]).items():
        assert torch.isfinite(item.features).all(), name


def test_channels_are_averaged() -> None:
    stereo = clip(1.0, channels=2)
    mono = Waveform(stereo.samples.mean(dim=0, keepdim=True), stereo.sample_rate)
    extractor = AudioFeatureExtractor(MINI)
    for name, item in extractor([stereo]).items():
        assert torch.equal(item.features, extractor([mono])[name].features), name


def test_padding_rows_hold_what_the_encoders_were_trained_on() -> None:
    features = AudioFeatureExtractor(MINI)([clip(1.0), clip(5.0)])
    sslam = features["sslam"]
    assert sslam.features.shape == (2, 800, 128)
    torch.testing.assert_close(sslam.features[0, 100:400], torch.full((300, 128), 4.268 / 9.138))
    assert not sslam.features[0, 400:].any()
    odd = AudioFeatureExtractor(MINI)([clip(1.01, 16000)])["w2vbert"]
    assert odd.features.shape == (1, 51, 160) and int(odd.lengths) == 50
    assert (odd.features[0, 50, 80:] == 1).all()


def test_whisper_pieces_are_normalised_separately() -> None:
    loud, soft = clip(4.0, 16000, seed=1), clip(4.0, 16000, seed=2)
    soft = Waveform(soft.samples * 1e-3, 16000)
    joined = Waveform(torch.cat([loud.samples, soft.samples], dim=1), 16000)
    extractor = AudioFeatureExtractor({"whisper": MINI["whisper"]})
    whole = extractor([joined])["whisper"].features
    parts = extractor([loud, soft])["whisper"].features
    torch.testing.assert_close(whole[0], parts.flatten(0, 1))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000])
def test_resampling_keeps_a_tone_and_the_length(rate: int) -> None:
    count = rate // 2 + 7
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(count) / rate)[None]
    out, lengths = resample(tone, torch.tensor([count]), rate, 16000)
    assert int(lengths) == out.shape[1] == -(-count * 16000 // rate)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(out.shape[1]) / 16000)
    torch.testing.assert_close(out[0, 100:-100], expected[100:-100], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [22050, 44100, 96000])
def test_weights_made_without_the_whole_kernel_are_the_same(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wave, lengths = clip(0.5, rate).samples, torch.tensor([rate // 2])
    by_kernel, _ = resample(wave, lengths, rate, 16000)
    monkeypatch.setattr("src.audio.resample.MOST_DENSE", 0)
    monkeypatch.setattr("src.audio.resample._kept", _Kept(0))
    alone, _ = resample(wave, lengths, rate, 16000)
    torch.testing.assert_close(alone, by_kernel, atol=1e-4, rtol=0)  # torchaudio rounds its phases to float32


@pytest.mark.parametrize("rate", [191_992, 191_999, 44_099, 4_001, 100_008])
def test_odd_rates_cost_little_and_keep_a_tone(rate: int) -> None:
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate // 4, dtype=torch.float64) / rate).float()[None]
    with FlopCounterMode(display=False) as counter:
        out, _ = resample(tone, torch.tensor([tone.shape[1]]), rate, 16000)
    gcd = math.gcd(rate, 16000)
    weights = sum(part.numel() for _, part in _bands(rate // gcd, 16000 // gcd, tone.device)[1])
    assert weights < 1 << 23 and counter.get_total_flops() < 1e9  # torchaudio's kernel: up to 6e9 weights
    assert _kept.size <= CACHE_BYTES
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(out.shape[1]) / 16000)
    torch.testing.assert_close(out[0, 100:-100], expected[100:-100], atol=2e-3, rtol=0)


def test_kernels_are_kept_by_their_size() -> None:
    kept = _Kept(100)
    for key in range(5):
        assert kept.get(key, lambda key=key: key, lambda made: 40) == key
    assert kept.size == 80 and kept.get("large", lambda: "large", lambda made: 101) == "large" and kept.size == 80


def test_no_waveform_is_an_error() -> None:
    with pytest.raises(UserError, match="no waveform"):
        AudioFeatureExtractor(MINI)([])
    with pytest.raises(UserError, match="waveform 1 of the batch"):
        AudioFeatureExtractor(MINI)([clip(1.0), Waveform(torch.zeros(1, 0), 16000)])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="minimum_seconds"):
        settings = {"kind": "muq", "sample_rate": 24000, "chunk_frames": 96000, "minimum_seconds": 0.001}
        bind_dataclass(FeatureConfig, settings, "features")
    with pytest.raises(
        ConfigError, match="known: muq, samples, spectrogram, sslam, w2vbert, waveform, whisper; your own"
    ):
        bind_dataclass(FeatureConfig, {"kind": "clap", "sample_rate": 1, "chunk_frames": 1}, "features")
    assert FeatureConfig("muq", 24000, 96000).minimum_samples == 24000 * MINIMUM_SECONDS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu() -> None:
    on_cpu = AudioFeatureExtractor(MINI)(MIXED)
    on_gpu = AudioFeatureExtractor(MINI).to("cuda")(MIXED)
    for name, item in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].to("cpu").features, item.features, atol=2e-3, rtol=0)
        assert torch.equal(on_gpu[name].mask.cpu(), item.mask)
