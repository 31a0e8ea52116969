"""Tiny audio embedders and LLMs for tests: the miniature configurations and a few-layer random LLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from src.audio.features import EncoderFeatures
from src.common.config import bind_dataclass, compose
from src.model.audio_embedder import AudioEmbedder, build_audio_embedder
from src.model.config import ModelConfig

FULL_MODELS = ("alarm_ca", "alarm_p", "whisper_batch", "w2vbert", "sslam", "muq")
MINI_MODELS = ("mini_alarm_ca", "mini_alarm_p", "mini_whisper", "mini_w2vbert", "mini_sslam", "mini_muq")


def model_config(name: str, *overrides: str) -> ModelConfig:
    """The configuration ``src/configs/model/NAME.yaml`` with Hydra overrides."""
    return bind_dataclass(ModelConfig, compose(f"model/{name}", list(overrides))["model"], "model")


def mini_audio_embedder(name: str, *overrides: str, seed: int = 0) -> AudioEmbedder:
    """A miniature audio embedder with random weights, encoders included, in eval mode."""
    torch.manual_seed(seed)
    config = model_config(name, *overrides)
    return build_audio_embedder(config.config, config.llm_embedding_dim or 192, encoder_weights=False).eval()


def tiny_llm(width: int = 192, vocab_size: int = 61, seed: int = 0) -> Any:
    """A random one-layer Qwen3."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=32,
        vocab_size=vocab_size,
        max_position_embeddings=512,
    )
    return Qwen3ForCausalLM(config).eval()


class StandInEncoder(nn.Module):
    """Passes features through: state k is the features times k + 1. Stands in for a trained encoder."""

    def __init__(self, width: int, num_states: int = 40) -> None:
        super().__init__()
        self.width = width
        self.num_states = num_states

    def forward(self, features: Tensor, mask: Tensor, layers: tuple[int, ...]) -> Tensor:
        """(batch, frames, width) to (layers, batch, frames, width)."""
        return torch.stack([features * (layer + 1) for layer in layers])

    def calc_length(self, lengths: Tensor) -> Tensor:
        """Unchanged."""
        return lengths


def stand_in_features(lengths: list[int], width: int, seed: int = 0) -> EncoderFeatures:
    """Random features of clips with ``lengths`` frames; what lies past a clip's end is noise as well."""
    generator = torch.Generator().manual_seed(seed)
    frames = max(max(lengths), 1)
    given = torch.tensor(lengths)
    mask = (torch.arange(frames)[None] < given[:, None]).to(torch.int8)
    features = torch.randn(len(lengths), frames, width, generator=generator, dtype=torch.float64)
    return EncoderFeatures(features, mask, given)
