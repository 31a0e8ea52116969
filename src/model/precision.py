"""Frozen weights held in the precision in which mixed precision computes with them anyway."""

from __future__ import annotations

import torch
from torch import nn

_MATMUL = (nn.Linear, nn.Conv1d, nn.Conv2d)


def hold_as_autocast(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Cast in place, once, what autocast would cast in every step: linear layers and convolutions.

    Under autocast to ``dtype`` the results stay equal bit for bit, as norms, embeddings and the residual stream keep
    float32; the weights take half the memory. Frozen modules only. Layers whose weight is computed (weight norm) are
    left alone. Raises :class:`ValueError` for a weight that is trained. Returns ``module``.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, _MATMUL) or nn.utils.parametrize.is_parametrized(layer):
            continue
        if any(value.requires_grad for value in layer.parameters(recurse=False)):
            raise ValueError(f"{name} is trained; only frozen weights can be held in {dtype}")
        layer.to(dtype)
    return module
