"""Features of all four encoders equal the recorded reference numbers, extracted as one batch."""

from __future__ import annotations

import json

import pytest
import torch

from src.audio.features import AudioFeatureExtractor
from src.audio.waveform import Waveform
from src.model.encoders.load import build_encoder
from tests.support.golden_features import FULL_SIZE, check_features
from tests.support.golden_rules import goldens_dir


@pytest.mark.slow
def test_features_equal_the_recorded_ones() -> None:
    results = list(check_features(goldens_dir()))
    assert len(results) == 16
    assert all(result.passed for result in results), [result.line() for result in results if not result.passed]


@pytest.mark.slow
def test_lengths_equal_the_recorded_chain() -> None:
    chain = json.loads((goldens_dir() / "lengths.json").read_text(encoding="utf-8"))["chain"]
    extractor = AudioFeatureExtractor(FULL_SIZE)
    strides = {"whisper": 2, "sslam": 2, "w2vbert": 1, "muq": 960}
    minimum = {name: config.minimum_seconds for name, config in FULL_SIZE.items()}
    for name, case in chain.items():
        rate, count = (
            int(part[part.index(letter) + 1 :]) for part, letter in zip(name.split("_"), "rn", strict=True)
        )
        if count / rate < max(minimum.values()):
            continue  # the reference cannot encode these; ours are padded, see test_features.py
        features = extractor([Waveform(torch.zeros(1, count), rate)])
        for kind, item in features.items():
            expected = case[kind]
            assert item.features.shape[1] == item.mask.shape[1] == expected["feature_frames"], (name, kind)
            assert int(item.lengths) == int(item.mask.sum()) == expected["feature_length"], (name, kind)
            assert int(item.lengths) // strides[kind] == expected["encoder_length"], (name, kind)


def test_encoder_lengths_equal_the_recorded_ones() -> None:
    table = json.loads((goldens_dir() / "lengths.json").read_text(encoding="utf-8"))["encoder_calc_length"]
    architecture = {"width": 16, "num_layers": 1, "num_heads": 4}
    extra = {
        "whisper": {"ffn_dim": 8},
        "w2vbert": {"ffn_dim": 8},
        "sslam": {},
        "muq": {"ffn_dim": 8, "conv_channels": 2},
    }
    for kind, case in table.items():
        config = {
            "features": {"kind": kind, "sample_rate": 16000, "chunk_frames": 96000},
            "architecture": architecture | extra[kind],
            "layers": [0],
            "weights": {"source": "none"},
        }
        with torch.device("meta"):
            encoder = build_encoder(kind, config)
        assert [encoder.calc_length(length) for length in case["in"]] == case["out"], kind
        assert encoder.calc_length(torch.tensor(case["in"])).tolist() == case["out"], kind
