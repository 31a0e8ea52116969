"""The frozen language model: any decoder-only causal LM of transformers, by its Auto classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from src.common.errors import UserError, error_text
from src.common.paths import REPO_ROOT
from src.model.tensor_files import find_tensors, tensors_digest
from src.prompts.chat import check_chat_template
from src.prompts.find_reasoning import choose_reasoning

EMBEDDING_NAMES = tuple([name, "weight"] for name in ("embed_tokens", "wte", "embed_in", "word_embeddings"))
"""How transformers' decoder-only families end the name of their input embeddings."""


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
    reasoning: str | None = None,
) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or Hub id; the model is frozen and in eval mode.

    ``dtype`` "auto" is that of the model's files. ``random`` builds the architecture with fresh weights.
    ``reasoning`` as in :func:`load_tokenizer`. Raises :class:`UserError` when nothing can be loaded.
    """
    config = llm_config(name, revision)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        if random:
            chosen = (config.dtype or torch.float32) if dtype == "auto" else dtype
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=chosen)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                resolve_source(name), revision=revision, dtype=dtype
            )
    except (OSError, ValueError) as error:
        raise UserError(f"LLM {name!r} cannot be loaded: {error_text(error)}") from error
    return freeze(model.to(device)), load_tokenizer(name, revision, reasoning)


def load_tokenizer(name: str, revision: str | None = None, reasoning: str | None = None) -> Any:
    """The tokenizer of an LLM; ``reasoning`` names the format of its reasoning, where its template does not show it.

    Raises :class:`UserError` when there is none, or for an unknown format.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_source(name), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"LLM {name!r}: no usable tokenizer ({error_text(error)})") from error
    return choose_reasoning(tokenizer, reasoning)


def load_chat_tokenizer(name: str, revision: str | None = None, reasoning: str | None = None) -> Any:
    """:func:`load_tokenizer`, with a chat template that audio can be placed in.

    Raises :class:`UserError` when there is none; programs call this before they load anything heavy.
    """
    tokenizer = load_tokenizer(name, revision, reasoning)
    check_chat_template(tokenizer, name)
    return tokenizer


def load_input_embeddings(name: str, revision: str | None = None, dtype: torch.dtype | None = None) -> nn.Embedding:
    """The frozen input embeddings of an LLM or of a published checkpoint; none of its other tensors are read.

    ``dtype`` is that of the file where it is not given. Families that scale their embeddings (Gemma) get them scaled,
    as audio embeddings were trained next to them. Raises :class:`UserError` when the table cannot be found.
    """
    tensors = find_tensors("LLM", name, revision)
    tables = [tensor for tensor in tensors.names() if tensor.split(".")[-2:] in EMBEDDING_NAMES]
    if len(tables) != 1:
        raise UserError(f"LLM {name!r}: expected one table of input embeddings, found {', '.join(tables) or 'none'}")
    [(_, table)] = tensors.read(tables, dtype)
    embeddings = _ScaledEmbedding.from_pretrained(table, freeze=True)
    embeddings.scale = _embedding_scale(name, revision)
    return embeddings


class _ScaledEmbedding(nn.Embedding):
    """Input embeddings times a fixed factor."""

    scale = 1.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embeddings of ids."""
        rows = super().forward(input)
        # the factor is rounded to the dtype first, as in transformers' Gemma3TextScaledWordEmbedding
        return rows if self.scale == 1 else rows * torch.tensor(self.scale).to(rows)


def _embedding_scale(name: str, revision: str | None) -> float:
    """Factor of a family's input embeddings, 1 in most."""
    try:
        config = llm_config(name, revision).get_text_config(decoder=True)
        if hasattr(config, "audio_encoder_configs"):  # a published checkpoint, which is a Qwen3
            return 1.0
        with torch.device("meta"):  # the factor is an attribute of the built module, under no key of the config
            table = transformers.AutoModelForCausalLM.from_config(config).get_input_embeddings()
    except (UserError, ValueError):  # a published checkpoint before src.hf has registered its config
        return 1.0
    return float(getattr(table, "scalar_embed_scale", 1.0))


def freeze(model: nn.Module) -> nn.Module:
    """Eval mode, no gradients for the weights."""
    return model.requires_grad_(False).eval()


def llm_width(name: str, revision: str | None = None) -> int:
    """Embedding width, read from the config alone."""
    return config_width(llm_config(name, revision))


def config_width(config: Any) -> int:
    """Embedding width that a transformers config gives."""
    # multimodal models keep the sizes of their language model in a part of the config
    return int(config.get_text_config(decoder=True).hidden_size)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers in the state dict, by name."""
    return tensors_digest(model.state_dict())


def llm_config(name: str, revision: str | None = None) -> Any:
    """The transformers config of an LLM. Raises :class:`UserError` when there is none."""
    try:
        config = transformers.AutoConfig.from_pretrained(resolve_source(name), revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"LLM {name!r}: no usable config.json; expected a folder or Hub id of a causal LM ({error_text(error)})"
        ) from error
    if getattr(config.get_text_config(decoder=True), "hidden_size_per_layer_input", None):
        # https://ai.google.dev/gemma/docs/gemma-3n#ple-caching
        raise UserError(
            f"LLM {name!r} reads token ids in every layer (per-layer embeddings), which audio has not; use a model "
            "without them, such as Gemma 3 in place of Gemma 3n"
        )
    return config


def generation_settings(name: str, revision: str | None = None) -> dict[str, Any]:
    """Generation config of an LLM (sampling, end tokens); empty where it has none."""
    try:
        config = transformers.GenerationConfig.from_pretrained(resolve_source(name), revision=revision)
    except (OSError, ValueError):
        return {}
    stated: dict[str, Any] = config.to_diff_dict()  # transformers' defaults are no choice of the model's authors
    return stated
