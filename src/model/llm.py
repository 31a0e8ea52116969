"""The frozen language model: any decoder-only causal LM of transformers, by its Auto classes."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from src.common.errors import UserError
from src.common.paths import REPO_ROOT


def resolve_source(name: str) -> str:
    """A folder below the repository when ``name`` is one and no folder of the working directory, else ``name``."""
    shipped = REPO_ROOT / name
    return str(shipped) if not Path(name).expanduser().exists() and shipped.exists() else name


def load_llm(
    name: str,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
    random: bool = False,
    revision: str | None = None,
) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or Hub id; the model is frozen and in eval mode.

    ``random`` builds the architecture with fresh weights. Raises :class:`UserError` when nothing can be loaded.
    """
    source = resolve_source(name)
    config = _config(name, revision)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
        if random:
            chosen = torch.float32 if dtype == "auto" else dtype
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=chosen)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"LLM {name!r} cannot be loaded: {_one_line(error)}") from error
    return freeze(model.to(device)), tokenizer


def freeze(model: nn.Module) -> nn.Module:
    """Eval mode, no gradients for the weights."""
    return model.requires_grad_(False).eval()


def llm_width(name: str, revision: str | None = None) -> int:
    """Embedding width, read from the config alone."""
    return config_width(_config(name, revision))


def config_width(config: Any) -> int:
    """Embedding width that a transformers config gives."""
    return int(config.get_text_config(decoder=True).hidden_size)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers in the state dict, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _config(name: str, revision: str | None) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(resolve_source(name), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"LLM {name!r}: no usable config.json; expected a folder or Hub id of a causal LM ({_one_line(error)})"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
