"""Random language models of many families, a few thousand weights each, as folders that the Auto classes load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "phi3": {},
    "smollm3": {},
    "olmo2": {},
    "olmo3": {},
    "glm4": {},
    "granite": {"embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": {"rope_theta": 1e4}},
}
"""Options of the configuration by model type."""
TIED = ("gemma", "gemma2", "gemma3_text", "smollm3")
"""Families whose output layer is the table of input embeddings by default."""
WIDTH = 64


def save_family(family: str, tokenizer_of: Path, folder: Path) -> Path:
    """Write a random model of ``family`` with the tokenizer in ``tokenizer_of``; returns ``folder``.

    Its weights are large, so that logits differ from position to position; vLLM on a CPU takes its heads.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_of))
    small = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **small,
        **FAMILIES[family],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.ndim >= 2:
            weight.normal_(std=1.0 if "embed" in name else 0.2)
    model.generation_config.update(do_sample=True, temperature=0.6)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
