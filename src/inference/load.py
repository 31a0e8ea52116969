"""Loads models for inference: the language model, LoRA, device and precision that belong to checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from src.common.errors import ConfigError
from src.inference.config import EngineConfig, LlmSource, ModelSettings
from src.inference.engine import Engine
from src.inference.ensemble import EmbedderEnsemble
from src.inference.vllm_backend import VllmBackend
from src.inference.vllm_lora import prepared_llm
from src.model.checkpoints import Checkpoint, open_checkpoint, shared_lora
from src.model.llm import llm_width, load_chat_tokenizer, load_llm, load_tokenizer
from src.model.lora_files import attach_lora, read_lora
from src.model.precision import torch_dtype
from src.prompts import Prompts, choose_prompts
from src.prompts.find_reasoning import find_reasoning
from src.prompts.reasoning import Reasoning


def choose_model(
    names: Sequence[str], settings: ModelSettings, prompts: Mapping[str, Any] | None
) -> tuple[LlmSource, Prompts]:
    """The language model of checkpoints, and the prompts of a configuration for them.

    Raises :class:`UserError` for everything that can be seen before a model is loaded: a checkpoint that does not
    exist or does not fit, an unknown prompt set, a chat template in which audio cannot be placed.
    """
    checkpoints = [open_checkpoint(name) for name in names]
    source = resolve_llm(checkpoints, settings)
    check_embedder_widths(checkpoints, source)
    chosen = choose_prompts(prompts, [(each.name, each.extra) for each in checkpoints], source.name)
    load_chat_tokenizer(source.name, source.revision, source.reasoning)
    return source, chosen


def resolve_llm(checkpoints: Sequence[Checkpoint], settings: ModelSettings) -> LlmSource:
    """The language model of ``settings``, else that of the first checkpoint, with the checkpoints' LoRA.

    Raises :class:`UserError` if the checkpoints' LoRA differ, or ``llm_embedding_dim`` is not the model's width.
    """
    trained_with = checkpoints[0].config if checkpoints else None
    name, revision, reasoning = settings.llm or "", settings.llm_revision, settings.reasoning
    if trained_with is not None:
        name = name or trained_with.llm
        # a checkpoint pins the revision of its own language model: another model does not have it
        if trained_with.llm == name:
            revision, reasoning = revision or trained_with.llm_revision, reasoning or trained_with.reasoning
    check_width(settings.llm_embedding_dim, name, revision)
    return LlmSource(name, revision, shared_lora(checkpoints), reasoning)


def llm_reasoning(name: str, chosen: str | None = None) -> Reasoning:
    """How a language model reasons, by its tokenizer alone; ``chosen`` is the format where it is known.

    Raises :class:`UserError` if it has no chat template that can be used.
    """
    return find_reasoning(load_chat_tokenizer(name, reasoning=chosen))


def check_width(stated: int | None, llm: str, revision: str | None = None) -> None:
    """Compare ``model.llm_embedding_dim``, where it is given, with the language model's width.

    Raises :class:`ConfigError` if they differ.
    """
    if stated is None:
        return
    width = llm_width(llm, revision)
    if width != stated:
        raise ConfigError(
            f"model.llm_embedding_dim={stated}: the embeddings of {llm} have {width} values; leave the key out, or "
            "name the language model that it belongs to (model.llm=…)"
        )


def check_embedder_widths(checkpoints: Sequence[Checkpoint], llm: LlmSource) -> None:
    """Raise :class:`ConfigError` if a checkpoint's audio embeddings do not fit into a language model of another name.

    Called before anything is loaded.
    """
    for checkpoint in checkpoints:
        trained = checkpoint.config
        if trained.llm == llm.name:
            continue
        width = llm_width(llm.name, llm.revision)
        if trained.llm_embedding_dim not in (None, width):
            raise ConfigError(
                f"checkpoint {checkpoint.name!r} was trained for {trained.llm} and gives embeddings "
                f"{trained.llm_embedding_dim} wide, {llm.name} takes {width}: leave model.llm out, or name "
                "a checkpoint that was trained for it"
            )


def inference_device() -> str:
    """The first GPU that this process sees, else the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def load_ensemble(checkpoints: Sequence[str], settings: ModelSettings) -> EmbedderEnsemble:
    """The checkpoints' audio embedders on this process's device, in the precision of ``settings``.

    Raises :class:`UserError` if one is unusable or they belong to different language models.
    """
    trained = settings.front_end_dtype
    encoders = settings.encoder_dtype or trained
    return EmbedderEnsemble.load(checkpoints, inference_device(), torch_dtype(trained), torch_dtype(encoders))


def load_vllm(source: LlmSource, config: EngineConfig) -> Engine:
    """An engine over a vLLM of its own, with LoRA as ``config.lora`` says.

    Raises :class:`UserError` if vLLM is not installed or the model cannot be loaded.
    """
    if config.threads is not None:
        # torch is running already; vLLM, in this process or in one of its own, keeps to the variable
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        torch.set_num_threads(config.threads)
    tokenizer = load_tokenizer(source.name, source.revision, source.reasoning)
    with prepared_llm(source, config.lora) as prepared:  # a merged copy is on the disk only until vLLM has read it
        backend = VllmBackend.start(prepared, config, tokenizer.eos_token_id)
    # as many requests wait in vLLM as it decodes, and as many again are prepared: no place in its batch stays empty
    return Engine(backend, tokenizer, 2 * config.max_num_seqs, config.max_num_seqs)


def load_transformers(source: LlmSource) -> tuple[Any, Any]:
    """(model, tokenizer) of transformers with LoRA attached; bfloat16 on a GPU, float32 on a CPU.

    Raises :class:`UserError` if it cannot be loaded.
    """
    device = inference_device()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    llm, tokenizer = load_llm(source.name, dtype, device, revision=source.revision, reasoning=source.reasoning)
    if source.lora is not None:
        attach_lora(llm, read_lora(source.lora), str(source.lora))
    return llm, tokenizer
