"""Precision: names of dtypes in configurations, and frozen weights stored as autocast would cast them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Precision = Literal["float32", "bfloat16"]
"""Names of dtypes, as configurations give them; :func:`torch_dtype` makes them torch's."""
_MATMUL = (nn.Linear, nn.Conv1d, nn.Conv2d)


def torch_dtype(name: Precision) -> torch.dtype:
    """torch's dtype of that name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def hold_as_autocast(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Cast in place, once, what autocast would cast in every step: linear layers and convolutions.

    Under autocast to ``dtype`` the results stay equal bit for bit, as norms, embeddings and the residual stream keep
    float32; the weights take half the memory. Frozen modules only. Layers whose weight is computed (weight norm) or is
    also the table of an embedding (a tied output layer) are left alone: autocast does not cast embeddings. Raises
    :class:`ValueError` for a weight that is trained. Returns ``module``.
    """
    elsewhere = {
        id(parameter)
        for part in module.modules()
        if not isinstance(part, _MATMUL)
        for parameter in part.parameters(recurse=False)
    }
    for name, layer in module.named_modules():
        if not isinstance(layer, _MATMUL) or nn.utils.parametrize.is_parametrized(layer):
            continue
        if any(id(value) in elsewhere for value in layer.parameters(recurse=False)):
            continue
        if any(value.requires_grad for value in layer.parameters(recurse=False)):
            raise ValueError(f"{name} is trained; only frozen weights can be held in {dtype}")
        layer.to(dtype)
    return module
