"""LoRA on disk, as PEFT and vLLM read it: ``adapter_model.safetensors`` and ``adapter_config.json`` in a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.model.llm import load_llm
from src.model.lora import ADAPTER, has_lora, inject, lora_tensors
from src.model.tensor_files import Fetch, TensorFiles, gather_full, read_json, tensor_mismatches

FOLDER = "lora"
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
FILES = (f"{FOLDER}/{WEIGHTS}", f"{FOLDER}/{SETTINGS}")


@dataclass(frozen=True)
class Lora:
    """LoRA weights by PEFT's names, and the content of PEFT's configuration."""

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def lora_of(llm: Any) -> Lora | None:
    """The LoRA layers of a model, on the CPU; ``None`` without any."""
    if not has_lora(llm):
        return None
    settings = llm.peft_config[ADAPTER].to_dict()
    # target_modules is a set, which JSON has not; sorted, so that equal runs write equal files
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    tensors = {name: gather_full(value) for name, value in lora_tensors(llm).items()}
    return Lora(tensors, {**plain, "inference_mode": True})  # as PEFT's save_pretrained writes it


def write_lora(folder: Path, lora: Lora | None) -> None:
    """Write ``folder/lora``, each file whole or not at all; without LoRA remove what an earlier run left there."""
    target = folder / FOLDER
    if lora is None:
        shutil.rmtree(target, ignore_errors=True)
        return
    target.mkdir(parents=True, exist_ok=True)
    # renamed when complete, as an evaluation may read the folder while a run saves
    weights, settings = target / f".{WEIGHTS}.{os.getpid()}", target / f".{SETTINGS}.{os.getpid()}"
    save_file(dict(lora.tensors), weights, metadata={"format": "pt"})
    settings.write_text(json.dumps(lora.settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights.replace(target / WEIGHTS)
    settings.replace(target / SETTINGS)


def find_lora(fetch: Fetch, where: str) -> Path:
    """The folder with both files. Raises :class:`UserError` when one is missing."""
    paths = [fetch(file) for file in FILES]
    missing = [file for file, path in zip(FILES, paths, strict=True) if path is None]
    if paths[0] is None or missing:
        raise UserError(f"checkpoint {where!r}: it was trained with LoRA, and {', '.join(missing)} is missing")
    return paths[0].parent


def read_lora(folder: Path) -> Lora:
    """Read a folder in PEFT's format. Raises :class:`UserError` for files that cannot be read."""
    settings = read_json(folder / SETTINGS, "PEFT configuration")
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder / SETTINGS}: contains an adapter of type {kind}; only LORA is read")
    files = TensorFiles.of_files(str(folder), [folder / WEIGHTS])
    return Lora(dict(files.read(files.names())), settings)


def attach_lora(llm: Any, lora: Lora, where: str) -> Any:
    """Put a checkpoint's LoRA layers into a model for inference; returns peft's tuner.

    Raises :class:`UserError` when they do not fit the model.
    """
    from peft import LoraConfig as Settings

    tuner = inject(llm, Settings.from_peft_type(**lora.settings))
    _fill(llm, lora, where)
    llm.requires_grad_(False).eval()
    return tuner


def restore_lora(llm: Any, lora: Lora | None, where: str) -> None:
    """Put a checkpoint's LoRA weights into the layers of a run that goes on from it.

    Raises :class:`UserError` when one of the two has no LoRA, or they differ in shape or weight.
    """
    if lora is None and not has_lora(llm):
        return
    if lora is None:
        raise UserError(f"checkpoint {where}: it was trained without LoRA; leave lora.r out, or start a new run")
    rank, alpha = lora.settings.get("r"), lora.settings.get("lora_alpha")
    if not has_lora(llm):
        raise UserError(f"checkpoint {where}: it was trained with LoRA; give lora.r={rank} lora.alpha={alpha}")
    own = llm.peft_config[ADAPTER]
    if (own.r, own.lora_alpha) != (rank, alpha):
        raise UserError(
            f"checkpoint {where}: LoRA of r={rank}, alpha={alpha}, this run has r={own.r}, alpha={own.lora_alpha}; "
            "give the same"
        )
    _fill(llm, lora, where)


@torch.no_grad()
def _fill(llm: Any, lora: Lora, where: str) -> None:
    targets = lora_tensors(llm)
    if problems := tensor_mismatches(lora.tensors, targets):
        raise UserError(f"checkpoint {where}: its LoRA does not fit the language model: {'; '.join(problems)}")
    for name, target in targets.items():
        target.copy_(lora.tensors[name])


def load_merged(name: str, revision: str | None, lora: Lora, where: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a language model with LoRA added to its weights, in the dtype that it is stored in."""
    llm, tokenizer = load_llm(name, revision=revision)
    return attach_lora(llm, lora, where).merge_and_unload(safe_merge=True), tokenizer


def write_merged(name: str, revision: str | None, lora: Lora, where: str, folder: Path) -> Path:
    """Write the language model with LoRA added to its weights, and its tokenizer; returns the folder."""
    llm, tokenizer = load_merged(name, revision, lora, where)
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
