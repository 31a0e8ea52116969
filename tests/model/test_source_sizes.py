"""Whisper and w2v-BERT of other sizes: the source's config.json decides; shorter chunks; pinned commits."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.common.config import CONFIG_DIR, bind_dataclass
from src.common.errors import ConfigError, UserError
from src.model.encoders.config import PINNED_ENCODERS, EncoderSpec, WeightSource
from src.model.encoders.load import load_encoder
from src.model.encoders.source_settings import quarter_layers, with_source_sizes
from tests.support import tiny_pretrained as tiny


def shipped(name: str, **features: Any) -> dict[str, Any]:
    content = yaml.safe_load((CONFIG_DIR / "model" / "encoder" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**content, "features": {**content["features"], **features}}


def spec_with(name: str, source: Path | str, **features: Any) -> EncoderSpec:
    return bind_dataclass(EncoderSpec, {**shipped(name, **features), "weights": {"source": str(source)}}, "encoder")


def test_sizes_of_another_whisper_come_from_its_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.save_whisper(tmp_path, width=32, layers=8)
    with caplog.at_level(logging.INFO):
        spec = with_source_sizes("whisper", spec_with("whisper", folder), logging.INFO)
    assert spec.architecture == {"width": 32, "num_layers": 8, "num_heads": 2, "ffn_dim": 64}
    assert (spec.features.num_mels, spec.features.chunk_frames) == (80, 3000)
    assert spec.layers == (1, 3, 5, 7)
    assert "width 32 (configured 1280), num_layers 8 (configured 32)" in caplog.text
    assert load_encoder("whisper", spec).width == 32
    assert with_source_sizes("whisper", spec) == spec
    chosen = dataclasses.replace(spec_with("whisper", folder), layers=(2, 5))
    assert with_source_sizes("whisper", chosen).layers == (2, 5)


def test_sizes_of_another_w2vbert_and_sources_that_are_not_asked(tmp_path: Path) -> None:
    spec = with_source_sizes("w2vbert", spec_with("w2vbert", tiny.save_w2vbert(tmp_path / "w2vbert")))
    assert spec.architecture["num_layers"] == 3 and load_encoder("w2vbert", spec).num_states == 4
    published = bind_dataclass(EncoderSpec, shipped("whisper"), "encoder")
    assert with_source_sizes("whisper", published) is published
    without = spec_with("whisper", "assets/mini/encoders/whisper")
    assert with_source_sizes("whisper", without) is without
    hubert = tiny.save_waveform_model("hubert", tmp_path / "hubert")
    with pytest.raises(ConfigError, match="is a hubert, expected a whisper; encoder_name: hf reads it"):
        with_source_sizes("whisper", spec_with("whisper", hubert))


def test_wrong_sizes_are_one_line(tmp_path: Path) -> None:
    folder = tiny.save_whisper(tmp_path, width=32, layers=8)
    (folder / "config.json").unlink()
    with pytest.raises(UserError) as caught:
        load_encoder("whisper", spec_with("whisper", folder))
    assert "width is 32, configured 1280; num_layers is 8, configured 32; ffn_dim is 64, configured 5120; " in str(
        caught.value
    )
    assert "num_mels is 80, configured 128" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("frames", [400, 998, 3000])
def test_a_shorter_chunk_uses_the_first_positions(
    frames: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.save_whisper(tmp_path)
    spec = with_source_sizes("whisper", spec_with("whisper", folder, chunk_frames=frames))
    with caplog.at_level(logging.INFO):
        encoder = load_encoder("whisper", spec)
    table = load_encoder("whisper", with_source_sizes("whisper", spec_with("whisper", folder))).state_dict()
    name = "encoder.embed_positions.weight"
    assert torch.equal(encoder.state_dict()[name], table[name][: frames // 2])
    assert (f"the first {frames // 2} of 1500 positions are used" in caplog.text) == (frames < 3000)
    for wrong in (999, 3002):
        with pytest.raises(ConfigError, match=f"got {wrong} frames of 10 ms, expected an even number up to 3000"):
            with_source_sizes("whisper", spec_with("whisper", folder, chunk_frames=wrong))


def test_a_pinned_commit_belongs_to_its_source(tmp_path: Path) -> None:
    large = "openai/whisper-large-v3"
    assert WeightSource(large).revision == PINNED_ENCODERS[large]
    assert WeightSource(large, "main").revision == "main"
    for other in ("openai/whisper-tiny", "assets/mini/encoders/whisper", str(tmp_path)):
        assert WeightSource(other).revision is None
        assert WeightSource(other, PINNED_ENCODERS[large]).revision is None
    for name in ("whisper", "w2vbert", "muq"):
        spec = bind_dataclass(EncoderSpec, shipped(name), "encoder")
        assert spec.weights is not None and spec.weights.revision == PINNED_ENCODERS[spec.weights.source]


def test_default_layers_are_the_published_quarters() -> None:
    assert quarter_layers(32) == list(bind_dataclass(EncoderSpec, shipped("whisper"), "encoder").layers)
    assert quarter_layers(24) == [5, 11, 17, 23]
    for depth in range(1, 49):
        layers = quarter_layers(depth)
        assert layers == sorted(set(layers)) and layers[0] >= 1 and layers[-1] <= depth


def test_a_folder_without_safetensors_says_so(tmp_path: Path) -> None:
    folder = tiny.save_whisper(tmp_path / "whisper")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no model.safetensors"):
        load_encoder("whisper", with_source_sizes("whisper", spec_with("whisper", folder)))
    shutil.rmtree(folder)
