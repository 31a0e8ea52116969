"""Training with ``bf16`` and evaluation during training died at its first evaluation: features were computed inside
autocast. With clips of one rate it went on, with features in bfloat16; the encoder cache died at its first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import Waveform
from src.model.encoders.muq import MuQEncoder
from src.training.encoder_cache import EncoderCache
from tests.audio.test_features import MINI, clip
from tests.support.tiny_models import mini_audio_embedder
from tests.training.conftest import Run, run, world  # noqa: F401 - fixtures
from tests.training.test_run import losses

RATES = (8000, 16000, 24000, 44100)
SETTINGS = {"bf16": "true", "max_steps": 2, "per_device_eval_batch_size": 4}


def mixed() -> list[Waveform]:
    return [clip(0.7, rate, seed=rate) for rate in RATES]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("clips", [mixed(), [clip(0.7, 44100), clip(0.5, 44100, seed=1)]], ids=["rates", "one_rate"])
def test_features_are_float32_and_the_same_whatever_autocast_is_on(clips: list[Waveform], dtype: torch.dtype) -> None:
    extractor = AudioFeatureExtractor(MINI)
    expected = extractor(clips)
    with torch.autocast("cpu", dtype):
        found = extractor(clips)
        assert torch.is_autocast_enabled("cpu")
    for name, item in found.items():
        assert item.features.dtype == torch.float32, name
        assert torch.equal(item.features, expected[name].features), name


def test_the_encoder_cache_computes_its_features_outside_autocast() -> None:
    audio_embedder, other = mini_audio_embedder("mini_alarm_ca"), mini_audio_embedder("mini_alarm_ca")
    extractor = AudioFeatureExtractor({name: spec.features for name, spec in audio_embedder.config.encoders.items()})
    expected = extractor(mixed())
    cache = EncoderCache(audio_embedder, extractor, megabytes=100, precision="bfloat16")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        kept = cache([str(rate) for rate in RATES], mixed())
        states, _ = other.audio_encoder(expected, other.layers)
    for name, item in kept.items():
        torch.testing.assert_close(item.states, states[name][:, :, : item.states.shape[2]], msg=name)


def test_the_mel_spectrogram_inside_muq_is_float32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encoder = mini_audio_embedder("mini_muq").audio_encoder.encoders["muq"]
    assert isinstance(encoder, MuQEncoder)
    from src.model.encoders import muq

    compute = muq.muq_mel
    monkeypatch.setattr(muq, "muq_mel", lambda *args: seen.append(compute(*args)) or seen[-1])
    features = AudioFeatureExtractor(MINI)(mixed())["muq"]
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
            encoder(features.features, features.mask, (0,))
    assert seen[1].dtype == torch.float32 and torch.equal(seen[0], seen[1])


@pytest.mark.slow
def test_bf16_trains_with_evaluation_and_with_the_encoder_cache(run: Run, tmp_path: Path) -> None:  # noqa: F811
    plain = run("plain", eval_strategy="steps", eval_steps=1, model="mini_alarm_ca", **SETTINGS)
    cached = run("cached", "encoder_cache_mb=100", eval_strategy="steps", model="mini_alarm_ca", **SETTINGS)
    assert len(losses(plain)) == 2
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-2)  # padding moves bfloat16 kernels' last digits
