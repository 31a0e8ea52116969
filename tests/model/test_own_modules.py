"""Checkpoints with an own encoder and fusion: stored by import path, read back equal, missing parts named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.audio.waveform import Waveform
from src.common.config import bind_dataclass
from src.common.errors import ConfigError, UserError
from src.model.audio_embedder import build_audio_embedder, build_feature_extractor
from src.model.checkpoints import CONFIG_FILE, load_audio_embedder, save_checkpoint
from src.model.config import ModelConfig
from src.model.encoders.load import load_encoder, save_encoder
from src.model.published_config import published_from_model_config

OWN = '''
import torch
from torch import nn
from dataclasses import dataclass
from src.model.config import FusionConfig
from src.model.encoders.base import Encoder
from src.model.fusion import Fusion


@dataclass(frozen=True)
class Sizes:
    width: int = 4


class Blocks(Encoder):
    """A linear layer over windowed blocks of ten samples; no file contains the window."""

    Config = Sizes
    defaults = {"features": {"kind": "samples", "sample_rate": 16000, "chunk_frames": 1000}, "layers": [0]}

    @classmethod
    def from_config(cls, config, features):
        made = cls(nn.Linear(10, config.width), features.chunk_frames, config.width, 1)
        made.register_buffer("window", torch.hann_window(10), persistent=False)
        return made

    def states(self, chunks, mask):
        yield self.encoder(chunks.unfold(1, 10, 10) * self.window)

    def calc_length(self, lengths):
        return lengths // 10


@dataclass(frozen=True, kw_only=True)
class ScaledConfig(FusionConfig):
    scale: float


class Scaled(Fusion):
    Config = ScaledConfig

    def __init__(self, config, stream_dims, llm_dim):
        super().__init__(config, stream_dims, llm_dim)
        self.register_buffer("scale", torch.full((1,), config.scale), persistent=False)

    def forward(self, streams):
        return sum(streams.values.values()) * self.scale
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A model of the classes in ``own_parts.py``, its encoder with saved weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    (tmp_path / "own_parts.py").write_text(OWN, encoding="utf-8")
    encoder = {"encoder_name": "own_parts.Blocks", "weights": {"source": str(tmp_path / "encoder")}}
    model = {
        "llm": "nobody/nothing",
        "llm_embedding_dim": 6,
        "config": {
            "encoders": {"blocks": encoder},
            "audio_adapter_config": {"blocks": {"adapter_name": "identity"}},
            "audio_fusion_config": {"fusion_type": "own_parts:Scaled", "scale": 0.5},
        },
    }
    config = bind_dataclass(ModelConfig, model, "model")
    torch.manual_seed(0)
    spec = config.config.encoders["blocks"]
    save_encoder(spec.module().from_config(spec.bound_architecture(), spec.features), tmp_path / "encoder")
    return config


def embed(audio_embedder: torch.nn.Module, config: ModelConfig) -> Tensor:
    """Embeddings of a fixed clip."""
    samples = torch.sin(torch.arange(3000) / 7.0)[None]
    with torch.no_grad():
        return audio_embedder(build_feature_extractor(config.config)([Waveform(samples, 16000)]))[0]


def test_a_checkpoint_of_own_parts_is_read_back(own: ModelConfig, tmp_path: Path) -> None:
    built = build_audio_embedder(own.config, 6).eval()
    folder = save_checkpoint(tmp_path / "saved", built, own)
    stored = json.loads((folder / CONFIG_FILE).read_text())["model"]["config"]
    assert stored["encoders"]["blocks"]["encoder_name"] == "own_parts:Blocks"
    assert stored["encoders"]["blocks"]["architecture"] == {"width": 4}, "defaults of the class are kept"
    assert stored["audio_fusion_config"] == {"fusion_type": "own_parts:Scaled", "scale": 0.5}
    loaded = load_audio_embedder(folder)
    assert loaded.config.config == own.config
    expected = embed(built, own)
    assert expected.shape == (300, 6) and expected.std() > 0
    assert torch.equal(embed(loaded.audio_embedder, own), expected)


def test_weights_of_an_own_encoder_are_checked_by_name(own: ModelConfig) -> None:
    spec = own.config.encoders["blocks"]
    wider = bind_dataclass(type(spec), {**spec.as_dict(), "architecture": {"width": 5}}, "encoder")
    with pytest.raises(UserError, match=r"encoder.weight is \(4, 10\), expected \(5, 10\)"):
        load_encoder("blocks", wider)


def test_the_published_form_has_no_own_parts(own: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="the published code has no own_parts:Blocks, own_parts:Scaled"):
        published_from_model_config(own)


def test_a_missing_module_is_named_with_the_fix(
    own: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "saved", build_audio_embedder(own.config, 6), own)
    (tmp_path / "own_parts.py").unlink()
    monkeypatch.delitem(sys.modules, "own_parts")
    message = r"alarm_config.json: .*encoder_name: own_parts:Blocks cannot be imported.*PYTHONPATH.*pip install"
    with pytest.raises(UserError, match=message):
        load_audio_embedder(folder)
