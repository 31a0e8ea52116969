"""A checkpoint as the published system writes it, in small: whole model, ``config.json``, state of the Trainer.

The fields of the language model are those that transformers 4.57 writes for Qwen3; the audio part is what the
published training sets on its configuration: layers, heads and a skip connection that no shipped model has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from src.model.adapter import DownsamplerConformerConfig, MlpConfig
from src.model.audio_embedder import AudioEmbedder
from src.model.config import AudioEmbedderConfig
from src.model.fusion import CrossAttentionConfig
from src.model.published_config import shipped_encoders
from src.training.published_resume import OPTIMIZER, SCHEDULER

WIDTH = 192
FUSION = {"layer_fusion_type": "weighted_average"}
RECORDED: dict[str, Any] = {
    "architectures": ["Qwen3AudioWrappedForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "audio_adapter_configs": [
        {"encoder_name": "whisper", "adapter_name": "downsampler_conformer", "layer_fusion_config": FUSION,
         "audio_encoder_layers": [0, 2], "norm_type": "batch", "pre_average": True, "downsampler_depth": 1,
         "use_conformer": True, "conformer_heads": 4, "conf_linear_dims": 64, "n_conf_layers": 2,
         "encoder_embedding_dim": 96, "adapter_embedding_dim": 64, "llm_embedding_dim": WIDTH},
        {"encoder_name": "muq", "adapter_name": "mlp", "layer_fusion_config": FUSION, "audio_encoder_layers": [2, 0],
         "pre_average": True, "encoder_embedding_dim": 96, "hidden_dim": 64, "adapter_embedding_dim": 64,
         "llm_embedding_dim": WIDTH},
    ],
    "audio_encoder_configs": [{"encoder_name": "whisper"}, {"encoder_name": "muq"}],
    "audio_fusion_config": {
        "fusion_type": "crossattention", "llm_embedding_dim": WIDTH, "hidden_dim": 96, "ffn_dims": 128,
        "dropout": 0.2, "num_attention_heads": 8, "num_hidden_layers": [2], "main_encoder": "whisper",
        "conditional_encoders": ["muq"], "use_skip_connection": True,
    },
    "audio_postprocessing_config": {"postprocessing_type": "identity"},
    "audio_sep_d_embed": WIDTH,
    "bos_token_id": 1,
    "dtype": "float32",
    "eos_token_id": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 4096,
    "max_window_layers": 4,
    "model_type": "qwen3_audio",
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "transformers_version": "4.57.1",
    "use_cache": False,
    "use_explicit_audio_tokens": False,
    "use_sliding_window": False,
    "vocab_size": 832,
}  # fmt: skip


def by_hand() -> AudioEmbedderConfig:
    """The audio part of ``RECORDED``, written as a configuration of this project."""
    shipped = shipped_encoders()
    return AudioEmbedderConfig(
        encoders={"whisper": shipped["mini_whisper"], "muq": shipped["mini_muq"]},
        audio_adapter_config={
            "whisper": DownsamplerConformerConfig(
                adapter_name="downsampler_conformer",
                audio_encoder_layers=(0, 2),
                adapter_embedding_dim=64,
                norm_type="batch",
                use_conformer=True,
                conformer_heads=4,
                conf_linear_dims=64,
                n_conf_layers=2,
            ),
            "muq": MlpConfig(
                adapter_name="mlp", audio_encoder_layers=(2, 0), adapter_embedding_dim=64, hidden_dim=64
            ),
        },
        audio_fusion_config=CrossAttentionConfig(
            fusion_type="crossattention",
            main_encoder="whisper",
            conditional_encoders=("muq",),
            hidden_dim=96,
            ffn_dims=128,
            dropout=0.2,
            num_attention_heads=8,
            num_hidden_layers=(2,),
            use_skip_connection=True,
        ),
    )


def save_published(
    folder: Path, audio_embedder: AudioEmbedder, config: dict[str, Any] | None, shards: int = 2
) -> Path:
    """Write a whole model: the audio embedder's tensors, and of the LLM a table of embeddings; returns the folder."""
    folder.mkdir(parents=True)
    state = {f"model.{name}": value.detach().clone() for name, value in audio_embedder.state_dict().items()}
    state["model.embed_tokens.weight"] = torch.zeros(8, audio_embedder.llm_dim)
    names = sorted(state)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def save_trainer_state(folder: Path, step: int, optimizer: Any, scheduler: Any) -> None:
    """Write what transformers' Trainer 4.57 writes next to the weights."""
    state = {
        "best_global_step": None, "best_metric": None, "best_model_checkpoint": None, "epoch": 0.5,
        "eval_steps": 15000, "global_step": step, "is_hyper_param_search": False, "is_local_process_zero": True,
        "is_world_process_zero": True, "log_history": [], "logging_steps": 100, "max_steps": 6,
        "num_input_tokens_seen": 0, "num_train_epochs": 2, "save_steps": 15000,
        "stateful_callbacks": {"TrainerControl": {"args": {"should_epoch_stop": False, "should_evaluate": False,
         "should_log": False, "should_save": True, "should_training_stop": False}, "attributes": {}}},
        "total_flos": 0.0, "train_batch_size": 2, "trial_name": None, "trial_params": None,
    }  # fmt: skip
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    torch.save(scheduler.state_dict(), folder / SCHEDULER)
    torch.save({"python": (3, (1, 2), None), "cpu": torch.get_rng_state()}, folder / "rng_state.pth")
