"""Announced lengths are the real ones, and long audio is its chunks one after another."""

from __future__ import annotations

import random

import pytest
import torch

from src.audio.features import AudioFeatureExtractor, EncoderFeatures
from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.model.adapter import AudioAdapter
from src.model.config import AdapterConfig
from src.model.encoders.load import build_encoder
from src.model.published import model_config

BODIES = {
    "downsampler 1": {"adapter_name": "downsampler_conformer", "downsampler_depth": 1},
    "downsampler 2": {"adapter_name": "downsampler_conformer", "downsampler_depth": 2, "norm_type": "layer"},
    "downsampler 3": {"adapter_name": "downsampler_conformer", "downsampler_depth": 3},
    "no downsampler": {"adapter_name": "downsampler_conformer", "use_downsampler": False},
    "mlp": {"adapter_name": "mlp", "hidden_dim": 8},
    "identity": {"adapter_name": "identity"},
}


@pytest.mark.parametrize("title", BODIES)
@torch.no_grad()
def test_calc_length_equals_the_real_length(title: str) -> None:
    """1,000 random lengths: the frames that an adapter makes of a clip alone, the half-filled last one left out."""
    options = {"audio_encoder_layers": [0], **BODIES[title]}
    if options["adapter_name"] != "identity":
        options["adapter_embedding_dim"] = 8
    if options["adapter_name"] == "downsampler_conformer":
        options["use_conformer"] = False
    adapter = AudioAdapter(bind_dataclass(AdapterConfig, options, "adapter"), 8, 6, mask_padding=True).eval()
    depth = options.get("downsampler_depth", 0)
    rng = random.Random(0)
    for length in [rng.randint(2**depth, 700) for _ in range(1000)]:
        lengths = torch.tensor([length])
        made = adapter(torch.zeros(1, 1, length, 8), lengths).shape[1]
        announced = int(adapter.calc_length(lengths))
        assert announced == length // 2**depth
        whole = length % 2**depth == 0
        assert made == announced if whole and (depth or length % 2 == 0) else announced <= made <= announced + 1


def test_calc_length_of_encoders_equals_the_real_length() -> None:
    """Against convolutions of the same strides over the real features of clips of random lengths."""
    config = model_config("mini_alarm_ca").config
    extractor = AudioFeatureExtractor({name: spec.features for name, spec in config.encoders.items()})
    encoders = {name: build_encoder(name, spec).eval() for name, spec in config.encoders.items()}
    rng = random.Random(1)
    for _ in range(40):
        samples = torch.zeros(1, rng.randint(700, 90000))
        for name, features in extractor([Waveform(samples, 16000)]).items():
            length = int(features.lengths)
            announced = int(encoders[name].calc_length(features.lengths))
            valid = features.mask[0, :length]
            stride = {"whisper": 2, "w2vbert": 1, "sslam": 2, "muq": 960}[name]
            assert announced == len(valid[stride - 1 :: stride]), (name, length)


@pytest.mark.parametrize("name", ["whisper", "w2vbert", "sslam", "muq"])
@torch.no_grad()
def test_65_seconds_equal_their_chunks(name: str) -> None:
    spec = model_config("mini_alarm_ca").config.encoders[name]
    torch.manual_seed(0)
    encoder = build_encoder(name, spec).eval()
    noise = 0.1 * torch.randn(1, 65 * 16000, generator=torch.Generator().manual_seed(2))
    features = AudioFeatureExtractor({name: spec.features})([Waveform(noise, 16000)])[name]
    layers = (encoder.num_states - 1,)
    whole = encoder(features.features, features.mask, layers)[0, 0]
    parts = []
    for begin in range(0, features.features.shape[1], encoder.chunk_frames):
        part = slice(begin, begin + encoder.chunk_frames)
        mask = features.mask[:, part]
        chunk = EncoderFeatures(features.features[:, part], mask, mask.sum(1))
        parts.append(encoder(chunk.features, chunk.mask, layers)[0, 0])
    assert len(parts) > 6
    joined = torch.cat(parts)
    length = int(encoder.calc_length(features.lengths))
    assert len(joined) >= length == pytest.approx(65 * (25 if name == "muq" else 50), abs=2)
    torch.testing.assert_close(whole[:length], joined[:length], rtol=0, atol=2e-5)
