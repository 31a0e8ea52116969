"""The published form of a model configuration: equal to the shipped configurations, and there and back."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch

from src.common.errors import ConfigError
from src.model.config import ModelConfig
from src.model.perceiver import Resampler, ResamplerOptions
from src.model.published import known_models, model_config
from src.model.published_config import (
    bind_model,
    is_published,
    model_config_from_published,
    published_from_model_config,
)

LLM, WIDTH = "Qwen/Qwen3-4B-Thinking-2507", 2560
LAYERS = {"whisper": [7, 15, 23, 31], "w2vbert": [6, 10, 15, 20, 24], "sslam": [3, 7, 11], "muq": [4, 8, 12]}
ENCODER_WIDTHS = {"whisper": 1280, "w2vbert": 1024, "sslam": 768, "muq": 1024}
NORMS = {"whisper": "batch", "w2vbert": "layer", "sslam": "layer"}
OTHERS = ["w2vbert", "muq", "sslam"]


def adapter(name: str, kind: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "encoder_name": name,
        "adapter_name": kind,
        "layer_fusion_config": {"layer_fusion_type": "weighted_average"},
        "audio_encoder_layers": LAYERS[name],
        "pre_average": True,
        "adapter_embedding_dim": 1024,
        "llm_embedding_dim": WIDTH,
    }
    if kind == "identity":
        return item | {"use_llm_proj": False}
    item["encoder_embedding_dim"] = ENCODER_WIDTHS[name]
    if kind == "mlp":
        return item | {"hidden_dim": 1024}
    return item | {"norm_type": NORMS[name], "downsampler_depth": 1, "use_conformer": False}


def published(adapters: dict[str, str], fusion: dict[str, Any]) -> dict[str, Any]:
    """A model YAML as users of the published system have it."""
    return {
        "llm": LLM,
        "feature_extractor_configs": [{"encoder_name": name} for name in adapters],
        "from_pretrained": None,
        "llm_embedding_dim": WIDTH,
        "config": {
            "use_explicit_audio_tokens": False,
            "audio_sep_d_embed": WIDTH,
            "audio_encoder_configs": [{"encoder_name": name} for name in reversed(adapters)],
            "audio_adapter_configs": [adapter(name, kind) for name, kind in adapters.items()],
            "audio_fusion_config": fusion,
            "audio_postprocessing_config": {"postprocessing_type": "identity"},
        },
    }


CA_ADAPTERS = {
    "whisper": "downsampler_conformer",
    "sslam": "downsampler_conformer",
    "muq": "mlp",
    "w2vbert": "downsampler_conformer",
}
P_ADAPTERS = {"whisper": "downsampler_conformer", "sslam": "identity", "muq": "identity", "w2vbert": "identity"}
CROSS_ATTENTION = {
    "fusion_type": "crossattention",
    "llm_embedding_dim": WIDTH,
    "hidden_dim": 1024,
    "ffn_dims": 4096,
    "dropout": 0.1,
    "num_attention_heads": 16,
    "num_hidden_layers": [1, 1, 1],
    "main_encoder": "whisper",
    "conditional_encoders": OTHERS,
    "use_skip_connection": False,
}
MULTIPERCEIVER = {
    "fusion_type": "multiperceiver",
    "llm_embedding_dim": WIDTH,
    "num_latents": [20, 20, 20],
    "num_latent_channels": [768, 768, 768],
    "num_cross_attention_heads": [4, 4, 4],
    "num_cross_attention_layers": [1, 1, 1],
    "first_cross_attention_layer_shared": [True, True, True],
    "first_self_attention_block_shared": [True, True, True],
    "num_self_attention_heads": [4, 4, 4],
    "num_self_attention_blocks": [3, 3, 3],
    "num_self_attention_layers_per_block": [6, 6, 6],
    "main_encoder": "whisper",
    "conditional_encoders": OTHERS,
    "conditional_embedding_dim": [1024, 1024, 768],
}
SUM = {"fusion_type": "sum"}
SHIPPED = {
    "alarm_ca": published(CA_ADAPTERS, CROSS_ATTENTION),
    "alarm_p": published(P_ADAPTERS, MULTIPERCEIVER),
    "whisper_batch": published({"whisper": "downsampler_conformer"}, SUM),
    "w2vbert": published({"w2vbert": "downsampler_conformer"}, SUM),
    "sslam": published({"sslam": "downsampler_conformer"}, SUM),
    "muq": published({"muq": "mlp"}, SUM),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_published_configurations_are_ours(name: str) -> None:
    assert is_published(SHIPPED[name])
    assert model_config_from_published(SHIPPED[name], "model") == model_config(name)
    flat = {**SHIPPED[name]["config"], "model_type": "qwen3_audio", "hidden_size": WIDTH, "num_hidden_layers": 36}
    assert is_published(flat)
    assert model_config_from_published(flat, "config.json", llm=LLM) == model_config(name)


@pytest.mark.parametrize("name", known_models())
def test_there_and_back(name: str) -> None:
    config = model_config(name)
    assert model_config_from_published(published_from_model_config(config), "model") == config


def test_what_is_not_shipped_is_expressed_too() -> None:
    mapping = copy.deepcopy(SHIPPED["alarm_ca"])
    inner = mapping["config"]
    inner["audio_adapter_configs"][0] |= {
        "audio_encoder_layers": [3, -1],
        "pre_average": False,
        "use_conformer": True,
    }
    inner["audio_adapter_configs"][0] |= {"conformer_heads": 8, "n_conf_layers": 2, "downsampler_depth": 2}
    inner["audio_adapter_configs"][1] |= {"audio_encoder_layers": [5], "layer_fusion_config": None}
    del inner["audio_adapter_configs"][1]["norm_type"]
    inner["audio_fusion_config"] |= {"num_attention_heads": 4, "num_hidden_layers": [2, 1, 3]}
    inner["audio_fusion_config"] |= {"use_skip_connection": True, "dropout": 0.3}
    inner["use_explicit_audio_tokens"] = True
    config = model_config_from_published(mapping, "model").config
    whisper, sslam = config.audio_adapter_config["whisper"], config.audio_adapter_config["sslam"]
    assert (whisper.audio_encoder_layers, whisper.pre_average, whisper.use_conformer) == ((3, 32), False, True)
    assert (whisper.conformer_heads, whisper.n_conf_layers, whisper.downsampler_depth) == (8, 2, 2)
    assert (sslam.audio_encoder_layers, sslam.layer_fusion_config) == ((5,), None)
    assert sslam.norm_type == "layer"  # the published default of an adapter; that of its body is batch
    fusion = config.audio_fusion_config
    assert (fusion.num_attention_heads, fusion.num_hidden_layers) == (4, (2, 1, 3))
    assert fusion.use_skip_connection
    assert fusion.dropout == 0.3
    assert config.use_explicit_audio_tokens
    again = model_config_from_published(published_from_model_config(model_config_from_published(mapping, "m")), "m")
    assert again == model_config_from_published(mapping, "m")


def test_a_resampler_of_other_sizes_for_each_encoder() -> None:
    mapping = copy.deepcopy(SHIPPED["alarm_p"])
    mapping["config"]["audio_fusion_config"] |= {
        "num_latents": [8, 16, 24],
        "num_cross_attention_qk_channels": [256, None, None],
        "dropout": [0.1, 0.0, 0.0],
        "residual_dropout": [0.2, 0.2, 0.2],
        "init_scale": [0.5, 0.5, 0.5],
        "activation_checkpointing": [True, True, True],
    }
    config = model_config_from_published(mapping, "model")
    fusion = config.config.audio_fusion_config
    assert fusion.num_latents == (8, 16, 24)
    assert fusion.num_cross_attention_v_channels == (256, None, None)  # follow query and key channels, as published
    assert (fusion.dropout, fusion.residual_dropout, fusion.init_scale) == ((0.1, 0.0, 0.0), 0.2, 0.5)
    assert model_config_from_published(published_from_model_config(config), "model") == config
    assert bind_model(config.as_dict(), "model") == config


def test_left_out_fusion_options_have_the_published_defaults() -> None:
    mapping = published(P_ADAPTERS, {"fusion_type": "multiperceiver"})
    fusion = model_config_from_published(mapping, "model").config.audio_fusion_config
    assert (fusion.num_latents, fusion.num_latent_channels, fusion.first_cross_attention_layer_shared) == (
        20, 1024, False,
    )  # fmt: skip
    crossing = model_config_from_published(published(CA_ADAPTERS, {"fusion_type": "crossattention"}), "model")
    assert crossing.config.audio_fusion_config.num_hidden_layers == (2, 2, 2)
    assert crossing.config.audio_fusion_config.conditional_encoders == tuple(OTHERS)


def test_chunks_of_another_length() -> None:
    mapping = copy.deepcopy(SHIPPED["alarm_ca"])
    items = {item["encoder_name"]: item for item in mapping["config"]["audio_encoder_configs"]}
    extractors = {item["encoder_name"]: item for item in mapping["feature_extractor_configs"]}
    items["w2vbert"]["max_time"] = 20.0
    items["muq"]["max_time"] = extractors["muq"]["max_time"] = 10.0
    items["sslam"]["max_time"], extractors["sslam"]["max_frames"] = 5.12, 512
    encoders = model_config_from_published(mapping, "model").config.encoders
    assert {name: spec.features.chunk_frames for name, spec in encoders.items()} == {
        "whisper": 3000, "w2vbert": 1000, "muq": 240000, "sslam": 512,
    }  # fmt: skip


WRONG = [
    ("audio_encoder_configs.0.encoder_name", "wisper", "config.audio_encoder_configs[0].encoder_name: unknown"),
    ("audio_encoder_configs.0.frame_rate", 10, "audio_encoder_configs[0].frame_rate: got 10"),
    ("audio_encoder_configs.3.max_time", 15.0, "audio_encoder_configs[3].max_time: cannot be expressed"),
    ("audio_adapter_configs.0.norm_typ", "batch", "did you mean 'norm_type'"),
    ("audio_adapter_configs.0.adapter_name", "lstm", "unknown adapter 'lstm'"),
    ("audio_adapter_configs.0.audio_encoder_layers", [40], "40 is not among the 33 states"),
    ("audio_adapter_configs.0.encoder_embedding_dim", 512, "encoder_embedding_dim: got 512"),
    ("audio_adapter_configs.0.layer_fusion_config", None, "layer_fusion_config: missing"),
    ("audio_adapter_configs.0.layer_fusion_config", {"layer_fusion_type": "max"}, "layer_fusion_config: got"),
    ("audio_adapter_configs.0.llm_embedding_dim", 1024, "llm_embedding_dim: got 1024"),
    ("audio_fusion_config.fusion_type", "product", "unknown fusion 'product'"),
    ("audio_fusion_config.num_hidden_layers", [1], "num_hidden_layers: has 1 values for 3"),
    ("audio_fusion_config.conditional_encoders", ["beats"], "names beats"),
    ("audio_postprocessing_config.postprocessing_type", "pool", "got 'pool', expected identity"),
    ("audio_sep_d_embed", 1024, "audio_sep_d_embed: got 1024"),
    ("audio_pooling", True, "config.audio_pooling: unknown key"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[path for path, *_ in WRONG])
def test_what_cannot_be_expressed_is_one_line(path: str, value: Any, message: str) -> None:
    mapping = copy.deepcopy(SHIPPED["alarm_ca"])
    at: Any = mapping["config"]
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key)] if key.isdigit() else at[key]
    at[last] = value
    with pytest.raises(ConfigError) as caught:
        model_config_from_published(mapping, "model")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_other_kinds_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    mapping = copy.deepcopy(SHIPPED["alarm_ca"])
    mapping["config"]["audio_adapter_configs"][2] |= {"norm_type": "batch"}  # of muq's mlp, which has no norm
    logger = logging.getLogger("alarm")
    logger.propagate, before = True, logger.propagate
    try:
        with caplog.at_level(logging.INFO):
            config: ModelConfig = bind_model(mapping, "model")
    finally:
        logger.propagate = before
    assert config == model_config("alarm_ca")
    assert "norm_type has no effect with adapter_name mlp" in caplog.text
    assert "in the published form" in caplog.text


def test_a_config_json_names_no_language_model() -> None:
    flat = {**SHIPPED["muq"]["config"], "hidden_size": WIDTH}
    with pytest.raises(ConfigError, match=r"config\.json\.llm: missing"):
        model_config_from_published(flat, "config.json")
    assert model_config_from_published(flat, "config.json", llm="my/llm").llm == "my/llm"


def test_dropout_of_a_resampler_acts_in_training_only() -> None:
    options = ResamplerOptions(
        num_latents=4,
        num_latent_channels=8,
        num_cross_attention_heads=2,
        first_cross_attention_layer_shared=True,
        num_self_attention_blocks=2,
        num_self_attention_layers_per_block=1,
        num_self_attention_heads=2,
        dropout=0.5,
        residual_dropout=0.5,
        init_scale=3.0,
    )
    torch.manual_seed(0)
    resampler = Resampler(8, options)
    assert resampler.latent_provider._query.std() > 1
    x, mask = torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool)
    resampler.eval()
    assert torch.equal(resampler(x, mask), resampler(x, mask))
    resampler.train()
    assert not torch.equal(resampler(x, mask), resampler(x, mask))
