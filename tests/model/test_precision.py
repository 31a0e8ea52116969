"""How the language model is stored for mixed precision: the same numbers in less memory, by default as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.common.errors import ConfigError
from src.model.llm import load_llm
from src.model.lora import LoraConfig, add_lora, train_lora
from src.model.precision import cast_frozen_weights, torch_dtype
from tests.support.tiny_llm import save_tiny_llm


@pytest.fixture(scope="module")
def llms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Qwen3 whose output layer is its embedding, a Llama with an output layer of its own; float32 and bfloat16."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("llms")
    found = {"tied": save_tiny_llm(folder / "tied"), "untied": save_tiny_llm(folder / "llama", family="llama")}
    model = AutoModelForCausalLM.from_pretrained(found["untied"])
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 1.5)
    model.save_pretrained(found["untied"])
    for name in ("tied", "untied"):
        half = save_tiny_llm(folder / f"{name}_bf16", family="qwen3" if name == "tied" else "llama")
        AutoModelForCausalLM.from_pretrained(found[name], dtype=torch.bfloat16).save_pretrained(half)
        found[f"{name}_bf16"] = half
    return found


def loss_and_gradient(llm: Any, residual: list[torch.dtype] | None = None) -> tuple[Tensor, Tensor]:
    """Of the model's own loss under autocast, for embeddings of text and of something else."""
    embed = llm.get_input_embeddings()
    ids = torch.arange(3, 40)[None]
    heard = torch.randn(1, 9, embed.weight.shape[1], generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs = torch.cat([embed(ids), heard.to(embed.weight.dtype)], dim=1)
    labels = torch.cat([ids, ids[:, :9]], dim=1)
    if residual is not None:
        llm.get_decoder().norm.register_forward_pre_hook(lambda _, given: residual.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = llm(inputs_embeds=inputs, labels=labels, use_cache=False).loss
    loss.backward()
    assert heard.grad is not None
    return loss.detach(), heard.grad


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_held_as_autocast_computes_the_same_bit_for_bit(llms: dict[str, Path], name: str, lora: bool) -> None:
    results, residual = [], []
    for held in (False, True):
        llm, _ = load_llm(str(llms[name]), torch.float32)
        if held:
            cast_frozen_weights(llm)
        if lora:
            torch.manual_seed(0)
            add_lora(llm, LoraConfig(r=2))
            train_lora(llm)
            for part, value in llm.named_parameters():
                if ".lora_B." in part:
                    nn.init.normal_(value, std=0.1)
        residual.clear()
        results.append(loss_and_gradient(llm, residual))
        assert residual == [torch.float32]
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    kinds = {type(module).__name__: set() for module in llm.modules()}
    for module in llm.modules():
        kinds[type(module).__name__] |= {p.dtype for p in module.parameters(recurse=False) if not p.requires_grad}
    assert kinds["Embedding"] == {torch.float32}
    assert kinds["Linear"] == ({torch.float32, torch.bfloat16} if name == "tied" else {torch.bfloat16})
    assert next(value for kind, value in kinds.items() if kind.endswith("RMSNorm")) == {torch.float32}


@pytest.mark.parametrize("name", ["tied", "tied_bf16", "untied", "untied_bf16"])
def test_auto_is_what_the_published_training_assembles(llms: dict[str, Path], name: str) -> None:
    """The published ``train.py`` loads with ``torch_dtype="auto"`` and assigns these tensors to a float32 model."""
    from transformers import AutoModelForCausalLM

    source = AutoModelForCausalLM.from_pretrained(llms[name], dtype="auto")
    with torch.random.fork_rng():
        assembled = type(source)(source.config)
    assert {value.dtype for value in assembled.parameters()} == {torch.float32}
    assembled.load_state_dict(source.state_dict(), assign=True)
    ours, _ = load_llm(str(llms[name]), "auto")
    dtypes = {key: value.dtype for key, value in assembled.state_dict().items()}
    assert {key: value.dtype for key, value in ours.state_dict().items()} == dtypes
    assert set(dtypes.values()) == {torch.bfloat16 if name.endswith("bf16") else torch.float32}
    streams: list[torch.dtype] = []
    found = [loss_and_gradient(model.requires_grad_(False), streams) for model in (assembled.eval(), ours)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert set(streams) == set(dtypes.values())  # the residual stream is that of the embeddings


def test_an_unknown_precision_is_named() -> None:
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(
        ConfigError, match="'half' is no precision of an audio embedder, expected one of float32, bfloat16"
    ):
        torch_dtype("half")
