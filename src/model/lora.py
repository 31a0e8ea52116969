"""LoRA on the language model: low-rank layers of peft beside weights that stay as they are.

The layers are put into the model itself (no wrapper), so everything that asks the model for its embeddings, layers or
output layer goes on working. :mod:`src.model.lora_files` reads and writes them in PEFT's own format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from src.common.errors import ConfigError, error_text
from src.model.tensor_files import tensors_digest

ADAPTER = "default"
MOST_RANK = 4096
"""No rank is larger than the width of the layers it is added to."""
ALL_LINEAR = "all-linear"
FILE_PREFIX = "base_model.model."
"""How names begin in PEFT's files."""
_LORA_WEIGHT = re.compile(rf"\.lora_[AB]\.{ADAPTER}\.weight$")


@dataclass(frozen=True)
class LoraConfig:
    """LoRA layers in the language model: ``W x + alpha / r * B(A(dropout(x)))``, with ``B`` zero at the start.

    Attributes:
        r: rank of the added layers.
        alpha: their weight is ``alpha / r``; left out: twice the rank.
        dropout: share of inputs of the added layers that training drops.
        target_modules: last parts of the names of the layers, such as ``q_proj``; or all linear ones but the output
            layer.
    """

    r: int
    alpha: int | None = None
    dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ALL_LINEAR

    def __post_init__(self) -> None:
        if not 1 <= self.r <= MOST_RANK:
            raise ValueError(f"r is {self.r}, expected 1 to {MOST_RANK}")
        if self.alpha is None:
            object.__setattr__(self, "alpha", 2 * self.r)
        if self.alpha is not None and self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected 0 or more and less than 1")
        if isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            wanted = f"a list such as [{self.target_modules}], or {ALL_LINEAR}"
            raise ValueError(f"target_modules is {self.target_modules!r}, expected {wanted}")
        if not self.target_modules:
            raise ValueError(f"target_modules is empty; name layers such as q_proj, or give {ALL_LINEAR}")


def add_lora(llm: Any, config: LoraConfig, name: str | None = None, revision: str | None = None) -> None:
    """Put new LoRA layers into ``llm``, in float32 whatever its own dtype; they change nothing until trained.

    ``name`` and ``revision`` of the language model go into PEFT's configuration. Raises :class:`ConfigError` for
    layers that the model does not have, and for its embeddings and output layer, which stay as they are.
    """
    from peft import LoraConfig as Settings

    chosen = config.target_modules
    settings = Settings(
        r=config.r,
        lora_alpha=config.alpha or 2 * config.r,
        lora_dropout=config.dropout,
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
        task_type="CAUSAL_LM",
        base_model_name_or_path=name,
        revision=revision,
    )
    inject(llm, settings)


def inject(llm: Any, settings: Any) -> Any:
    """Put the layers of a ``peft.LoraConfig`` into ``llm``; returns peft's tuner, which can merge them."""
    from peft import LoraModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    asked, head = settings.target_modules, llm.get_output_embeddings()
    linear = {
        tuple(name.split(".")): layer for name, layer in llm.named_modules() if isinstance(layer, (nn.Linear, Conv1D))
    }
    # PEFT takes layers whose names end with a listed one, at a dot. It refuses a list only when none of it fits, and
    # a misspelt name beside right ones would train less than asked.
    endings = {".".join(parts[start:]) for parts in linear for start in range(len(parts))}
    absent = [] if isinstance(asked, str) else sorted(set(asked or ()) - endings)
    if absent:
        known = ", ".join(sorted({parts[-1] for parts, layer in linear.items() if layer is not head}))
        raise ConfigError(f"lora.target_modules: no linear layer {', '.join(absent)}; this model has {known}")
    try:
        tuner = LoraModel(llm, settings, ADAPTER)
    except ValueError as error:
        raise ConfigError(f"lora: {error_text(error)}") from error
    # the output layer again: PEFT puts another module in its place
    for what, layer in (("input embeddings", llm.get_input_embeddings()), ("output", llm.get_output_embeddings())):
        if isinstance(layer, BaseTunerLayer):
            raise ConfigError(f"lora.target_modules: the layer of the {what} cannot be trained; leave it out")
    for name, parameter in llm.named_parameters():
        if _LORA_WEIGHT.search(name):  # an optimizer's small steps would be rounded away in bfloat16
            parameter.data = parameter.data.float()
    return tuner


def has_lora(llm: Any) -> bool:
    """Whether LoRA layers are in the model."""
    return bool(getattr(llm, "peft_config", None))


def train_lora(llm: Any) -> None:
    """Let gradients reach the LoRA layers, whatever was frozen."""
    for name, parameter in llm.named_parameters():
        if _LORA_WEIGHT.search(name):
            parameter.requires_grad_(True)


def set_dropout(llm: nn.Module, on: bool) -> None:
    """Switch the dropout of the LoRA layers alone; the rest of the model keeps its mode."""
    for name, module in llm.named_modules():
        if name.endswith(".lora_dropout"):  # PEFT's container of them, by the name of its adapter
            module.train(on)


@contextmanager
def without_lora(llm: Any) -> Iterator[None]:
    """While active, the model computes as without LoRA layers; which of its weights are trained stays as it is."""
    if not has_lora(llm):
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in llm.modules() if isinstance(module, BaseTunerLayer)]
    # enable_adapters(False) of peft 0.21 also sets requires_grad of the weights, in the middle of a step that
    # distributed training has already prepared for them
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def lora_tensors(llm: nn.Module) -> dict[str, Tensor]:
    """The LoRA weights themselves (not copies), by their names in PEFT's files; none without LoRA."""
    return {
        FILE_PREFIX + name.replace(f".{ADAPTER}.", "."): value
        for name, value in llm.state_dict().items()
        if _LORA_WEIGHT.search(name)
    }


def base_digest(llm: nn.Module) -> str:
    """SHA-256 over the weights without LoRA: that of the same model before LoRA layers were put into it."""
    state = llm.state_dict()
    return tensors_digest(
        {name.replace(".base_layer.", "."): value for name, value in state.items() if not _LORA_WEIGHT.search(name)}
    )
