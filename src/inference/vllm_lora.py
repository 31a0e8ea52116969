"""A checkpoint's LoRA in vLLM: named in every request, or added to a temporary copy of the language model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from src.common.errors import UserError
from src.common.log import get_logger
from src.inference.config import LlmSource
from src.model.lora_files import read_lora, write_merged

log = get_logger(__name__)
LoraMode = Literal["auto", "request", "merge"]
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Room for LoRA that vLLM can set aside (``vllm.config.lora.MaxLoRARanks``)."""


def lora_options(folder: Path) -> dict[str, Any]:
    """Options of vLLM's ``LLM`` for the LoRA in ``folder``. Raises :class:`UserError` if vLLM has no room for it."""
    lora = read_lora(folder)
    rank = int(lora.settings["r"])
    if rank > RANKS[-1]:
        raise UserError(
            f"LoRA of rank {rank}: vLLM takes up to {RANKS[-1]}; merge it into the language model, as "
            "engine.lora=merge does for a run"
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(room for room in RANKS if room >= rank),
        # without this limit vLLM prepares the input embeddings too, and their LoRA form takes all tokens of a step,
        # not only those of text: it fails on prompts of text and embeddings
        "lora_target_modules": sorted({name.split(".lora_")[0].split(".")[-1] for name in lora.tensors}),
    }


def lora_request(folder: Path) -> Any:
    """The ``lora_request`` of vLLM for the LoRA in ``folder``; all requests of an engine need it."""
    # on a CPU, vLLM 0.32 computes a request without LoRA wrong while one with LoRA runs
    from vllm.lora.request import LoRARequest

    return LoRARequest("alarm", 1, str(folder.resolve()))


@contextmanager
def prepared_llm(source: LlmSource, mode: LoraMode) -> Iterator[LlmSource]:
    """The language model that vLLM is to load, valid while the context lasts.

    With ``merge`` it is a copy with LoRA added to its weights, in the folder for temporary files; it is removed at
    the end. ``auto`` is ``request`` on a GPU; on a CPU, where vLLM's LoRA layers take two to three times as long, it
    is ``merge``. Raises :class:`UserError` for ``request`` and a rank that vLLM has no room for.
    """
    if source.lora is None:
        yield source
        return
    weights = read_lora(source.lora)
    rank = int(weights.settings["r"])
    if mode == "request" and rank > RANKS[-1]:
        raise UserError(f"engine.lora=request: rank {rank}, vLLM takes up to {RANKS[-1]}; give engine.lora=merge")
    if mode == "request" or (mode == "auto" and torch.cuda.is_available() and rank <= RANKS[-1]):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="alarm-merged-") as folder:
        log.info("adding LoRA to a copy of %s in %s", source.name, folder)
        merged = Path(folder) / Path(source.name).name
        yield LlmSource(str(write_merged(source.name, source.revision, weights, str(source.lora), merged)))
